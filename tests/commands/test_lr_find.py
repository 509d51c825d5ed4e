"""`finetune --lr-find` with a tiny model: its losses against plain peft, one base model, a kill, what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.data import Encoder
from ntkcli.engine.models import loading
from ntkcli.identity import resolve_model
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training import lr_find
from ntkcli.steps.training.rows import encode_training, resolve_train
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows

RATES = "1e-3,2e-2"
SMALL = ["--rank", "2", "--target-modules", "q_proj,v_proj", "--batch-size", "4"]


@pytest.fixture
def files(write_jsonl: Writer) -> dict[str, Path]:
    domain = [{**row, "completion": "yes"} for row in prompt_rows(15, seed=1)]
    rest = [*prompt_rows(8, seed=2), domain[0], domain[1], domain[2], domain[3]]
    return {"domain": write_jsonl("domain.jsonl", domain), "rest": write_jsonl("rest.jsonl", rest)}


def words(store: Path, model: Path, files: dict[str, Path], *more: str) -> list[str]:
    train = ["--train", str(files["domain"]), "--train", str(files["rest"])]
    return [
        "finetune", str(store), "--model", str(model), *train, *SMALL, "--lr-find", "--lr-rates", RATES, "--name", "r",
        *more,
    ]  # fmt: skip


def split_rows(model: Path, files: dict[str, Path]) -> tuple[list[Any], list[Any], Any]:
    """The encoded rows that are trained on and those held out, as the sweep has them."""
    encoder = Encoder(loading.load_tokenizer(resolve_model(str(model))), max_length=1024)
    sets = resolve_train(None, [str(path) for path in files.values()], columns=None, split=None, on_error="fail")
    data = encode_training(sets, encoder, seed=0, hold_out=0.2, on_error="fail", hold_out_of=0)
    return [data.rows[i] for i in data.train], [data.rows[i] for i in data.held_out], data


def test_rows_of_the_domain_alone_are_held_out_and_their_copies_are_not_trained_on(
    model_dir: Path, files: dict[str, Path]
) -> None:
    train, held, data = split_rows(model_dir, files)
    assert len(held) == 3
    assert all(i < 15 for i in data.held_out)
    contents = {row.ids.tobytes() for row in held}
    assert not contents & {row.ids.tobytes() for row in train}
    copies = sum(row.ids.tobytes() in contents for row in data.rows[15:])
    assert len(train) == 15 - 3 + 12 - copies
    assert sum(data.sets) == len(train)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of the next transformers
def test_the_losses_are_those_of_the_adapters(
    cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained by `finetune` on the same rows, loaded by plain peft, measured by a plain loop."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loads = []
    load_model = loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: (loads.append(1), load_model(*a, **k))[1])
    ran = cli(*words(tmp_path / "s", model_dir, files, "--json"))
    assert ran.code == 0, ran.err
    assert loads == [1]
    found = json.loads(ran.out)
    assert found["held_out"] == 3

    _, held, data = split_rows(model_dir, files)
    kept = {name: [] for name in files}
    for i in data.train:
        name, number = ("domain", i) if i < 15 else ("rest", i - 15)
        kept[name].append(files[name].read_text().splitlines()[number])
    again = {}
    for name, lines in kept.items():
        again[name] = tmp_path / f"kept-{name}.jsonl"
        again[name].write_text("\n".join(lines) + "\n")
    for one in found["rates"]:
        run = f"r{one['lr']:g}"
        trained = cli(
            "finetune", tmp_path / "t", "--model", model_dir, "--train", again["domain"], "--train", again["rest"],
            *SMALL, "--lr", f"{one['lr']:g}", "--name", run, "--json",
        )  # fmt: skip
        assert trained.code == 0, trained.err
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(model_dir), json.loads(trained.out)["adapter"]
        )
        total = tokens = 0.0
        for row in held:
            ids, wanted = torch.tensor(row.ids.astype(np.int64)), torch.tensor(row.supervised[1:])
            with torch.no_grad():
                logits = model(input_ids=ids[None]).logits[0][:-1][wanted]
            total += float(torch.nn.functional.cross_entropy(logits, ids[1:][wanted], reduction="sum"))
            tokens += int(wanted.sum())
        assert one["held_out_loss"] == pytest.approx(total / tokens, abs=1e-5)
        assert one["last_loss"] == pytest.approx(json.loads(trained.out)["last_loss"], abs=1e-5)
    best = min(found["rates"], key=lambda one: one["held_out_loss"])
    assert found["lr"] == best["lr"] == 2e-2
    assert found["base_loss"] > best["held_out_loss"]
    assert found["command"].endswith(f"--lr {best['lr']:g}")


def test_table_sentence_and_a_command_that_runs(
    cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path]
) -> None:
    store = tmp_path / "s"
    dry = cli(*words(store, model_dir, files, "--lr-steps", "2", "--dry-run"))
    assert dry.code == 0, dry.err
    assert "4 steps" in dry.out
    assert not (store / "arrays.zarr").exists()
    ran = cli(*words(store, model_dir, files, "--lr-steps", "2", "--seeds", "0,1"))
    assert ran.code == 0, ran.err
    assert "base model" in ran.out
    assert "Take --lr" in ran.out
    assert "A trial has 2 steps and the run " in ran.out
    command = next(line for line in ran.err.splitlines() if line.startswith("next: "))[6:]
    assert "--seeds 0,1" in command
    assert "--lr-" not in command
    stored = open_store(store)
    assert [one.name for one in stored.artefacts()] == ["sweeps/r"]
    assert not list(store.glob("tmp/*"))
    assert not (store / "adapters").exists()
    sweep = stored.get("sweeps/r")
    assert sweep.read("learning_rate").tolist() == [0.0, 1e-3, 2e-2, 1e-3, 2e-2]
    assert sweep.read("steps").tolist() == [0, 2, 2, 2, 2]
    assert sweep.read("seed").tolist() == [-1, 0, 0, 1, 1]
    assert not np.array_equal(sweep.read("nats")[1], sweep.read("nats")[3])
    assert cli(*shlex.split(command)[1:]).code == 0
    assert {one.name for one in stored.artefacts()} == {"sweeps/r", "runs/r.s0", "runs/r.s1"}


def test_a_killed_sweep_goes_on_trial_by_trial(
    cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cli(*words(tmp_path / "whole", model_dir, files, "--json"))
    trial, calls = lr_find._trial, []

    def killed(*given: Any) -> Any:
        calls.append(given[2].learning_rate)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return trial(*given)

    monkeypatch.setattr(lr_find, "_trial", killed)
    assert cli(*words(tmp_path / "s", model_dir, files)).code == 130
    assert open_store(tmp_path / "s").find("sweeps/r").rows_done() == 2
    ran = cli(*words(tmp_path / "s", model_dir, files, "--json"))
    assert ran.code == 0, ran.err
    assert calls == [0.0, 1e-3, 2e-2, 2e-2]
    assert json.loads(ran.out)["digest"] == json.loads(whole.out)["digest"]
    monkeypatch.setattr(loading, "load_model", None)
    again = cli(*words(tmp_path / "s", model_dir, files, "--json"))
    assert json.loads(again.out) == json.loads(ran.out)
    assert cli(*words(tmp_path / "s", model_dir, files), "--lr-steps", "3").code == 12


def test_a_rate_that_diverges_is_counted_and_not_taken(
    cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path]
) -> None:
    ran = cli(*words(tmp_path / "s", model_dir, files), "--lr-rates", "1e-3,1e30")
    assert ran.code == 0, ran.err
    assert "Take --lr 0.001" in ran.out
    assert "Diverged: 1e+30 (1 of 1)." in ran.out
    found = json.loads(cli(*words(tmp_path / "s", model_dir, files, "--json"), "--lr-rates", "1e-3,1e30").out)
    assert found["rates"][1]["held_out_loss"] is None
    every = cli(*words(tmp_path / "t", model_dir, files), "--lr-rates", "1e29,1e30")
    assert every.code == 0, every.err
    assert "Every trial diverged" in every.out
    assert "next:" not in every.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lr", "1e-3"], "--lr has no meaning with --lr-find"),
        (["--then", "x.jsonl"], "--then has no meaning"),
        (["--keep-optimizer"], "--keep-optimizer has no meaning"),
        (["--patience", "2"], "--patience has no meaning"),
        (["--checkpoint-steps", "2"], "--checkpoint-steps has no meaning"),
        (["--lr-rates", "1e-3"], "two or more different positive numbers"),
        (["--lr-rates", "1e-3,-1"], "two or more different positive numbers"),
        (["--lr-rates", "1e-3,1e-3"], "two or more different positive numbers"),
        (["--lr-rates", "small"], "expected numbers"),
        (["--hold-out", "1.5"], "not a valid share"),
        (["--hold-out", "0.99"], "none are left to train on"),
    ],
)
def test_refused(
    cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path], more: list[str], message: str
) -> None:
    ran = cli(*words(tmp_path / "s", model_dir, files), *more)
    assert ran.code in (1, 2)
    assert message in ran.error_line
    assert not list((tmp_path / "s").glob("arrays.zarr/sweeps/*"))


def test_its_options_need_it(cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path]) -> None:
    ran = cli(
        "finetune", tmp_path / "s", "--model", model_dir, "--train", files["domain"], "--name", "r", "--lr-steps", "2"
    )
    assert ran.code == 2
    assert "--lr-steps is for --lr-find" in ran.error_line


def test_raw_text_in_packs(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """Pieces of one document are on one side, and a trial's steps are of sequences."""
    texts = write_jsonl("t.jsonl", [{"text": "the licence may grant use without warranty " * n} for n in range(1, 9)])
    ran = cli(
        "finetune", tmp_path / "s", "--model", model_dir, "--train", texts, *SMALL, "--text-as", "raw", "--pack",
        "--max-length", "60", "--epochs", "1", "--lr-find", "--lr-rates", RATES, "--name", "r", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    sweep = open_store(tmp_path / "s").get("sweeps/r")
    assert sweep.attrs["sequences"] < found["rows"]
    assert found["steps"] == found["planned_steps"] == -(-sweep.attrs["sequences"] // 4)
    assert "--pack" in found["command"]
    assert "--text-as raw" in found["command"]
