"""What artefacts were computed under stands with them, and going on under something else is said in one line."""

from __future__ import annotations

import importlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import store
from ntkcli.engine.models.environment import device_and_attention
from ntkcli.engine.models.loading import load_model
from ntkcli.identity import resolve_model
from ntkcli.progress import Silent
from ntkcli.steps.scores import exact, score
from ntkcli.steps.selections import select
from ntkcli.steps.shared import environment
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.conftest import choice_rows, prompt_rows, write_rows
from tests.steps.evaluation.lm_eval_kit import CHOICES, write_task

MODEL = ("torch", "transformers", "peft", "tokenizers", "safetensors", "accelerate")
MADE = {  # verb's artefact → the packages that it passed through, beside ntksel, numpy and zarr
    "tokens/pool": ("transformers", "tokenizers"),
    "features/pool/ntk": MODEL,
    "features/pool/embed": MODEL,
    "scores/mean": (),
    "scores/words": (),
    "scores/exact": MODEL,
    "selections/top": (),
    "selections/moved": ("POT", "scipy"),
    "runs/r": MODEL,
    "evals/e/base": MODEL,
    "evals/w/base": MODEL,
    "evals/h/base": (*MODEL, "lm_eval", "datasets"),
}


def commands(folder: Path, model: Path) -> dict[str, list[str | Path]]:
    """What makes each artefact, in order."""
    pool = write_rows(folder / "pool.jsonl", prompt_rows(12))
    domain = write_rows(folder / "domain.jsonl", prompt_rows(5, seed=1))
    items = write_rows(folder / "items.jsonl", choice_rows(6))
    written = write_rows(folder / "written.jsonl", prompt_rows(6, seed=5))
    task = write_task(folder, "more", CHOICES)
    kept = folder / "s"
    on = ["--model", model, "--max-length", "64"]
    ntk = ["--kind", "ntk", "--rank", "2", "--dim", "32", "--part-rows", "4", *on]
    sides = ["--pool", "pool", "--domain", "domain"]
    pick = ["select", kept, "--leaks", "ignore", "--score", "mean", "-n", "6", "--name"]
    evaluate = ["eval", kept, *on, "--run", "base", "--task"]
    return {
        "features/domain/ntk": ["featurize", kept, "--data", domain, "--name", "domain", *ntk],
        "features/pool/ntk": ["featurize", kept, "--data", pool, "--name", "pool", *ntk],
        "features/pool/embed": ["featurize", kept, "--data", pool, "--name", "pool", "--kind", "embed", *ntk[6:]],
        "scores/mean": ["score", kept, *sides, "--method", "mean", "--name", "mean"],
        "scores/words": ["score", kept, *sides, "--method", "bm25", "--name", "words"],
        "scores/exact": ["score", kept, *sides, "--method", "exact", "--name", "exact"],
        "selections/top": [*pick, "top"],
        "selections/moved": [*pick, "moved", "--method", "ot"],
        "runs/r": ["finetune", kept, *on, "--train", "pool", "--name", "r", "--epochs", "2", "--batch-size", "4",
                   "--checkpoint-steps", "2"],
        "evals/e/base": [*evaluate, items, "--name", "e"],
        "evals/w/base": [*evaluate, written, "--name", "w", "--max-new-tokens", "2"],
        "evals/h/base": [*evaluate, f"lm_eval:{task}", "--name", "h"],
    }  # fmt: skip


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores and selections in parts of four rows, which have one for a hundred thousand else."""
    from ntkcli.steps.evaluation import lm_eval
    from ntkcli.steps.shared import token_counts

    monkeypatch.setattr(score, "DATASET_PART_ROWS", 4)
    monkeypatch.setattr(select, "DATASET_PART_ROWS", 4)
    monkeypatch.setattr(exact, "PART_ROWS", 4)
    monkeypatch.setattr(token_counts, "PART_ROWS", 4)
    monkeypatch.setattr(importlib.import_module("ntkcli.steps.evaluation.evaluate"), "PART_ROWS", 4)
    monkeypatch.setattr(lm_eval, "PART_ROWS", 2)


def artefact_of(kept: store.Store, name: str) -> store.Artefact:
    if name.startswith("tokens/"):
        return next(each for each in kept.artefacts(store.Kind.TOKENS) if each.name.startswith(name))
    return kept.get(name)


def unfinish(kept: store.Store, name: str) -> None:
    """As a kill leaves it: the last part has no record; of a run nothing but the seal is missing."""
    artefact = artefact_of(kept, name)
    assert artefact.n_parts > 1
    if name.startswith("runs/"):
        (kept.adapter_path("r") / "ntksel.json").unlink()
    else:
        (artefact.path / "part" / "c" / str(artefact.n_parts - 1)).unlink()


def lines_about(err: str) -> list[str]:
    return [line for line in err.splitlines() if "another environment" in line]


@pytest.mark.usefixtures("small_parts")
def test_every_verb(cli: Cli, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = commands(tmp_path, model_dir)
    for command in made.values():
        ran = cli(*command)
        assert ran.code == 0, ran.err
        assert not lines_about(ran.err)
    kept = open_store(tmp_path / "s")
    fingerprints = {artefact.name: artefact.fingerprint for artefact in kept.artefacts()}
    for name, packages in MADE.items():
        artefact = artefact_of(kept, name)
        (found,) = artefact.attrs["environments"]
        assert found["versions"] == {each: version(each) for each in ("ntksel", "numpy", "zarr", *packages)}, name
        assert "versions" not in json.dumps(artefact.spec)
        if packages[: len(MODEL)] == MODEL:
            assert found["device"].startswith("cpu ")
            assert found["attention"] == "sdpa"
        assert ("generation" in found) == (name == "evals/w/base")

    made["tokens/pool"] = made["features/pool/embed"]
    for name in ("tokens/pool", "features/pool/embed", "runs/r", "scores/mean"):
        unfinish(kept, name)
        if name.startswith("tokens/"):  # counted for features that are not there yet
            kept.remove("features/pool/embed")
        ran = cli(*made[name])
        assert ran.code == 0, ran.err
        assert not lines_about(ran.err), "the same as before"

    real = version
    monkeypatch.setattr(environment, "version", lambda name: "9.9" if name in ("numpy", "torch") else real(name))
    torch = f"torch was {real('torch')}, is now 9.9"
    for name, packages in MADE.items():
        if name.startswith("tokens/"):
            continue  # neither is compared of it without features anew, as above
        unfinish(kept, name)
        ran = cli(*made[name])
        assert ran.code == 0, ran.err
        changed = ", ".join([f"numpy was {real('numpy')}, is now 9.9", *([torch] if "torch" in packages else [])])
        assert lines_about(ran.err) == [f"{name} continues in another environment than before: {changed}"]
        assert [each["versions"]["numpy"] for each in artefact_of(kept, name).attrs["environments"]] == [
            real("numpy"),
            "9.9",
        ]
        assert not lines_about(cli(*made[name]).err), "finished is finished"
    assert {artefact.name: artefact.fingerprint for artefact in kept.artefacts()} == fingerprints
    assert cli("info", tmp_path / "s", "--verify").code == 0


def test_nothing_done_is_no_mixture(cli: Cli, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = commands(tmp_path, model_dir)["features/domain/ntk"]
    assert cli(*command).code == 0
    kept = open_store(tmp_path / "s")
    for record in (kept.get("features/domain/ntk").path / "part" / "c").iterdir():
        record.unlink()
    monkeypatch.setattr(environment, "version", lambda _: "9.9")
    ran = cli(*command)
    assert ran.code == 0
    assert not lines_about(ran.err)
    (found,) = kept.get("features/domain/ntk").attrs["environments"]
    assert set(found["versions"].values()) == {"9.9"}


def test_another_device_another_kernel_a_package_less() -> None:
    before = {"versions": {"bitsandbytes": "0.50"}, "device": "cuda A100", "attention": "sdpa"}
    after = {"versions": {"bitsandbytes": None, "gguf": "1"}, "device": "cpu x86_64 AVX2", "attention": "eager"}

    class Artefact:
        name, n, attrs = "runs/r", 1, {"environments": [before]}

        def rows_done(self) -> int:
            return 1

        def note(self, **attrs: Any) -> None:
            self.attrs = attrs

    class Notes(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def note(self, text: str) -> None:
            self.lines.append(text)

    artefact, notes = Artefact(), Notes()
    environment.begin(artefact, after, notes)  # type: ignore[arg-type]
    (line,) = notes.lines
    assert line.endswith(
        "attention was sdpa, is now eager, device was cuda A100, is now cpu x86_64 AVX2, "
        "bitsandbytes was 0.50, is now not installed, gguf was not known, is now 1"
    )
    assert artefact.attrs["environments"] == [before, after]


def test_the_kernel_is_the_models(model_dir: Path) -> None:
    loaded = load_model(resolve_model(str(model_dir)), dtype="float32", device="cpu")
    loaded.model.set_attn_implementation("eager")
    assert device_and_attention(loaded)["attention"] == "eager"


def test_what_ends_an_answer_is_in_the_spec(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    """Another end of text in generation_config.json gives other answers, so it is another eval."""
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    written = write_rows(tmp_path / "written.jsonl", prompt_rows(4))
    command = ["eval", tmp_path / "s", "--model", model, "--run", "base", "--task", written, "--max-new-tokens", "3"]
    assert cli(*command, "--name", "a").code == 0
    assert open_store(tmp_path / "s").get("evals/a/base").spec["generate"]["eos_token_id"] == [2]
    file = model / "generation_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "eos_token_id": [2, 70], "temperature": 0.5, "do_sample": True}))
    other = cli(*command, "--name", "a")
    assert other.code == 12
    assert "generate.eos_token_id was [2], is now [2, 70]" in other.error_line
    assert "(--model)" in other.error_line
    file.write_text(json.dumps({**values, "top_k": 3}))
    assert cli(*command, "--name", "a").code == 0, "what is not followed changes nothing"
