"""`ntksel eval` on the command line: scorers, arms, retained tasks, exports, resume and what it refuses."""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import store
from ntkcli.engine.evaluation.evaluator import Evaluator
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows


def make_adapter(folder: Path, model: Path, seed: int) -> Path:
    """A LoRA adapter whose B is not zero, saved by peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=64, target_modules=["q_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM")
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft of transformers' next version
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(folder / name, model_dir, i) for i, name in enumerate(("a", "b.s0", "b.s1"))]


@pytest.fixture
def files(write_jsonl: Writer) -> dict[str, Path]:
    return {
        "test": write_jsonl("test.jsonl", choice_rows(70)),
        "free": write_jsonl("free.jsonl", prompt_rows(9, seed=4)),
        "general": write_jsonl("general.jsonl", choice_rows(20, seed=3)),
    }


def call(cli: Cli, path: Path, model: Path, *rest: str | Path) -> dict:
    ran = cli("eval", path, "--model", model, *rest, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_several_tasks_runs_and_scorers(
    cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path], adapters: list[Path]
) -> None:
    """Arms of seeds, a retained task, both scorers; the table, the JSON, the arrays and the export agree."""
    runs = [word for adapter in adapters for word in ("--run", adapter)]
    tasks = ["--task", files["test"], "--task", f"free={files['free']}", "--retain", files["general"]]
    export = tmp_path / "items.jsonl"
    rest = ["--run", "base", *runs, *tasks, "--name", "e", "--max-new-tokens", "4", "--export", export]
    found = call(cli, tmp_path / "s", model_dir, *rest)
    assert found["baseline"] == "base"
    assert found["retained"] == ["general"]
    arms = {(score["task"], score["arm"]): score for score in found["scores"]}
    assert {task for task, _ in arms} == {"test", "free", "general", "average"}
    assert {arm for _, arm in arms} == {"base", "a", "b"}
    assert set(arms["test", "b"]["seeds"]) == {"0", "1"}
    assert arms["average", "a"]["value"] == pytest.approx(
        (arms["test", "a"]["value"] + arms["free", "a"]["value"]) / 2
    ), "the retained task is no part of the average"
    assert len(found["sentences"]) == 2 * 4

    records = [json.loads(line) for line in export.read_text().splitlines()]
    assert len(records) == 4 * 99
    arrays = zarr.open_group(tmp_path / "s" / "arrays.zarr", mode="r")
    for run in ("base", "a", "b.s0", "b.s1"):
        group = arrays[f"evals/e/{run}"]
        own = [record for record in records if record["run"] == run]
        assert [record["correct"] for record in own] == group["correct"][:].astype(bool).tolist()
        chosen = [record for record in own if record["scorer"] == "choices"]
        assert all(record["prediction"] == int(np.argmax(record["loglik"])) for record in chosen)
        written = [record for record in own if record["scorer"] == "generate"]
        assert [record["text"] for record in written] == group["text"][:][70:79].tolist()
    base, a = (arrays[f"evals/e/{run}/loglik"][:70] for run in ("base", "a"))
    assert np.abs(base - a).max() > 1e-3, "the adapter is in use"

    shown = cli("eval", tmp_path / "s", "--model", model_dir, *rest, "--per-class", "--baseline", "b")
    assert shown.code == 0
    assert "finished already" in shown.err
    assert "general (retained) · a" in shown.out
    assert "minus b" in shown.out
    assert "red and blue" in shown.out
    assert " against" not in shown.out


def test_independent_of_batch_size(
    cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path], adapters: list[Path]
) -> None:
    arrays = zarr.open_group(open_store(tmp_path / "s", create=True).path / "arrays.zarr", mode="r")
    for scorer, keys in (("choices", ["loglik"]), ("generate", ["text", "prediction"]), ("loss", ["nll"])):
        found = []
        for size in ("1", "100", "5000"):
            rest = ["--run", adapters[0], "--task", files["general"], "--scorer", scorer, "--name", f"{scorer}{size}"]
            call(cli, tmp_path / "s", model_dir, *rest, "--batch-tokens", size, "--max-new-tokens", "6")
            found.append([arrays[f"evals/{scorer}{size}/a/{key}"][:] for key in keys])
        for other in found[1:]:
            for x, y in zip(found[0], other, strict=True):
                if x.dtype.kind == "f":
                    np.testing.assert_allclose(x, y, atol=1e-4)
                else:
                    assert (x == y).all()


def test_loss_is_the_models_own(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """Perplexity against transformers' loss on each row, weighted by tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ntkcli.data import DataFile, Encoder

    data = write_jsonl("loss.jsonl", prompt_rows(7))
    found = call(cli, tmp_path / "s", model_dir, "--run", "base", "--task", data, "--scorer", "loss", "--name", "l")
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    encoder = Encoder(AutoTokenizer.from_pretrained(model_dir), max_length=1024)
    nats = tokens = 0.0
    for row in DataFile(data).rows():
        encoded = encoder.encode(row)
        labels = np.where(encoded.supervised, encoded.ids, -100).astype(np.int64)
        with torch.no_grad():
            ids = torch.from_numpy(encoded.ids.astype(np.int64))[None]
            loss = model(input_ids=ids, labels=torch.from_numpy(labels)[None]).loss
        nats += float(loss) * encoded.supervised.sum()
        tokens += encoded.supervised.sum()
    measures = found["runs"][0]["measures"]
    assert measures["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert measures["perplexity_low"] < measures["perplexity"] < measures["perplexity_high"]
    assert found["scores"][0]["unit"] == "nats a token"


def test_normalisation(cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path]) -> None:
    arrays = zarr.open_group(open_store(tmp_path / "s", create=True).path / "arrays.zarr", mode="r")
    lengths = {"tokens": np.array([4, 5, 13]), "characters": np.array([3, 4, 12])}  # bytes and the end of turn
    for how, length in lengths.items():
        rest = ["--run", "base", "--task", files["test"], "--normalize", how]
        call(cli, tmp_path / "s", model_dir, *rest, "--name", how)
        group = arrays[f"evals/{how}/base"]
        assert (group["prediction"][:] == (group["loglik"][:] / length).argmax(axis=1)).all()
    ran = cli("eval", tmp_path / "s", "--model", model_dir, *rest[:-1], "sum", "--name", "tokens")
    assert ran.code == 12
    assert "--normalise" in ran.error_line


def test_generation_counts_missing_answers(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("free.jsonl", prompt_rows(5))
    rest = ["--run", "base", "--task", data, "--name", "g", "--max-new-tokens", "3"]
    found = call(cli, tmp_path / "s", model_dir, *rest, "--answer-pattern", "answer is (.*)")
    assert found["runs"][0]["measures"] == {"exact_match": 0.0, "token_f1": 0.0, "missing": 1.0}
    ran = cli("eval", tmp_path / "s", "--model", model_dir, *rest)
    assert ran.code == 12
    assert "--answer-pattern" in ran.error_line


@pytest.mark.parametrize("mode", ["fail", "skip"])
def test_a_reference_with_a_special_token_says_nothing_of_the_prompt(
    mode: str, cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    """Nor does one that is too long: what ends a turn is found without the references, and answers end there."""
    rows = prompt_rows(5)
    clean = write_jsonl("clean.jsonl", rows)
    rows[0]["completion"] = "<|im_end|> forged"
    bad = write_jsonl("bad.jsonl", rows)
    rows[0]["completion"] = "red " * 500
    long = write_jsonl("long.jsonl", rows)
    texts, end = [], []
    real = Evaluator.answers

    def spy(self: Evaluator, prompts: Any, *, end_of_turn: int | None, max_new_tokens: int) -> Any:
        end.append(end_of_turn)
        return real(self, prompts, end_of_turn=end_of_turn, max_new_tokens=max_new_tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "answers", spy)
        for name, data in (("clean", clean), ("bad", bad), ("long", long)):
            rest = ["--run", "base", "--task", data, "--name", name, "--scorer", "generate", "--max-new-tokens", "6"]
            call(cli, tmp_path / "s", model_dir, *rest, "--on-error", mode)
            texts.append(open_store(tmp_path / "s").get(f"evals/{name}/base").read("text").tolist())
    assert texts[0] == texts[1] == texts[2]
    assert end == [2, 2, 2]  # <|im_end|>


def test_an_arm_stands_for_its_seeds_and_parts_resume(
    cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path], adapters: list[Path]
) -> None:
    stored = open_store(tmp_path / "s", create=True)
    for adapter in adapters[1:]:
        (stored.path / "adapters").mkdir(exist_ok=True)
        (stored.path / "adapters" / adapter.name).symlink_to(adapter)
        stored.create(
            f"runs/{adapter.name}",
            kind=store.Kind.RUN,
            spec={"x": 1},
            parents={},
            n=1,
            part_rows=1,
            arrays={"loss": store.ArraySpec("float32")},
        )
    rest = ["--run", "base", "--run", "b", "--task", files["test"], "--name", "e"]
    before = call(cli, stored.path, model_dir, *rest)
    assert set(before["digests"]) == {"base", "b.s0", "b.s1"}
    (stored.path / "arrays.zarr/evals/e/b.s1/part/c/1").unlink()  # as if it had been killed in its second part
    again = cli("eval", stored.path, "--model", model_dir, *rest)
    assert "found 64 of 70 items done" in again.err
    assert call(cli, stored.path, model_dir, *rest) == before


def test_dry_run_counts_what_is_open(cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path]) -> None:
    path = tmp_path / "s"
    call(cli, path, model_dir, "--run", "base", "--task", files["general"], "--name", "e")
    rest = ["--task", files["general"], "--name", "e", "--dry-run"]
    assert call(cli, path, model_dir, "--run", "base", *rest)["rows"] == 0
    other = call(cli, path, model_dir, "--run", "base", "--task", files["test"], "--name", "f", "--dry-run")
    assert other["rows"] == 70
    assert other["tokens"] > 70 * 20
    assert not (path / "arrays.zarr/evals/f").exists()


def test_totals_in_the_harness_shape(
    cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path], adapters: list[Path]
) -> None:
    file = tmp_path / "results.json"
    rest = ["--task", files["general"], "--name", "e", "--export", file]
    found = call(cli, tmp_path / "s", model_dir, "--run", "base", *rest)
    totals = json.loads(file.read_text())
    share = found["scores"][0]["value"]
    assert totals["results"]["general"]["acc,none"] == pytest.approx(share)
    assert totals["results"]["general"]["acc_stderr,none"] == pytest.approx(math.sqrt(share * (1 - share) / 19))
    assert totals["n-samples"]["general"] == {"original": 20, "effective": 20}
    call(cli, tmp_path / "s", model_dir, "--run", "base", "--run", adapters[0], *rest)
    assert set(json.loads(file.read_text())) == {"base", "a"}


def test_one_item(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, adapters: list[Path]) -> None:
    """No interval is claimed that one item can't give, and nothing fails."""
    one = write_jsonl("one.jsonl", choice_rows(1))
    rest = ["--run", "base", "--run", adapters[0], "--task", one, "--name", "e"]
    found = call(cli, tmp_path / "s", model_dir, *rest)
    assert found["items"] == 1
    assert found["scores"][0]["high"] - found["scores"][0]["low"] > 0.7
    assert found["sentences"][0].startswith("No difference shown")


def test_refused(
    cli: Cli,
    tmp_path: Path,
    model_dir: Path,
    other_model_dir: Path,
    files: dict[str, Path],
    adapters: list[Path],
    write_jsonl: Writer,
) -> None:
    path, test = tmp_path / "s", files["test"]
    call(cli, path, model_dir, "--run", "base", "--task", test, "--name", "done")
    (tmp_path / "again").mkdir()
    same_name = tmp_path / "again" / "test.jsonl"
    same_name.write_bytes(test.read_bytes())
    texts = write_jsonl("texts.jsonl", [{"text": "red and blue"}])
    cases: list[tuple[list[str | Path], int, str]] = [
        (["--run", "base", "--task", files["free"], "--scorer", "choices"], 1, "no choices .*--scorer generate"),
        (["--run", "base", "--task", texts], 1, "no answer to compare with .*--scorer loss"),
        (["--run", "base", "--run", "base", "--task", test], 2, "'base' is given twice"),
        (["--run", "base", "--task", test, "--task", same_name], 2, "Two tasks are called 'test'.*--task NAME="),
        (["--run", "base", "--task", test, "--baseline", "b"], 2, "--baseline b is not one of .* base"),
        (["--run", "nosuch", "--task", test], 2, "--run nosuch: no finished run"),
        (["--run", "base", "--task", test, "--answer-pattern", "("], 2, "not a valid regular expression"),
        (["--run", "base", "--task", test, "--export", tmp_path / "x.csv"], 2, r"--export .*\.jsonl"),
        (["--run", "base", "--task", files["free"], "--max-new-tokens", "2040"], 2, "2048 positions.*--max-length"),
        (["--run", "base", "--task", files["general"], "--name", "done"], 12, r"\(--task\)"),
    ]
    for rest, code, message in cases:
        name = [] if "--name" in rest else ["--name", "e"]
        ran = cli("eval", path, "--model", model_dir, *rest, *name)
        assert ran.code == code, (rest, ran.err)
        assert re.search(message, ran.error_line), ran.error_line
    ran = cli("eval", path, "--model", other_model_dir, "--run", adapters[0], "--task", test, "--name", "done")
    assert ran.code == 12, "one table has one base model"
    assert "(--model)" in ran.error_line


def test_an_adapter_that_is_not_whole_is_refused(
    cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path], adapters: list[Path]
) -> None:
    from safetensors.numpy import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_bytes((adapters[0] / "adapter_config.json").read_bytes())
    weights = load_file(adapters[0] / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, broken / "adapter_model.safetensors")
    ran = cli("eval", tmp_path / "s", "--model", model_dir, "--run", broken, "--task", files["test"], "--name", "e")
    assert ran.code == 12
    assert "lacks weights" in ran.error_line
