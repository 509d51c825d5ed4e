"""`ntksel finetune` as a user calls it: mixes, budgets, seeds, rows held out, adapters to go on from, every mistake."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from huggingface_hub import ModelCard

import ntkcli.engine.training.loss
import store
from tests.commands.conftest import Cli
from tests.commands.test_full_disk import fill
from tests.commands.test_kill import tree
from tests.conftest import Writer, prompt_rows, save_model

Command = list[str | Path]


@pytest.fixture
def data(write_jsonl: Writer) -> Path:
    return write_jsonl("d.jsonl", prompt_rows(24))


@pytest.fixture
def on(model_dir: Path, data: Path) -> Command:
    return ["--model", model_dir, "--train", data, "--batch-size", "8", "--name", "r"]


def weights(folder: Path, run: str = "r") -> bytes:
    return (folder / "adapters" / run / "adapter_model.safetensors").read_bytes()


def course(folder: Path, run: str = "r") -> dict[str, Any]:
    group = zarr.open_group(folder / "arrays.zarr" / "runs" / run, mode="r")
    return {name: group[name][:] for name in group.array_keys()}


def ok(cli: Cli, *command: str | Path) -> dict[str, Any]:
    ran = cli(*command, "--json")
    assert ran.code == 0, ran.err
    result: dict[str, Any] = json.loads(ran.out)
    return result


def test_the_same_seed_gives_the_same_bits(cli: Cli, tmp_path: Path, on: Command) -> None:
    for name in "ab":
        ok(cli, "finetune", tmp_path / name, *on, "--epochs", "1", "--hold-out", "0.2", "--keep-optimizer")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    ok(cli, "finetune", tmp_path / "c", *on, "--epochs", "1", "--hold-out", "0.2", "--seed", "1")
    assert weights(tmp_path / "c") != weights(tmp_path / "a")


def test_what_only_costs_memory_or_time_changes_rounding_only(cli: Cli, tmp_path: Path, on: Command) -> None:
    import safetensors.torch

    ok(cli, "finetune", tmp_path / "a", *on, "--epochs", "1")
    ok(cli, "finetune", tmp_path / "b", *on, "--epochs", "1", "--gradient-checkpointing")
    ok(cli, "finetune", tmp_path / "c", *on, "--epochs", "1", "--batch-tokens", "100")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    a, c = (safetensors.torch.load(weights(tmp_path / name)) for name in "ac")
    assert all(np.allclose(a[key], c[key], atol=1e-5) for key in a)
    np.testing.assert_allclose(course(tmp_path / "a")["loss"], course(tmp_path / "c")["loss"], rtol=1e-5)


def test_a_token_budget_is_what_is_trained_on(cli: Cli, tmp_path: Path, on: Command) -> None:
    result = ok(cli, "finetune", tmp_path / "s", *on, "--max-tokens", "3000", "--schedule", "linear", "--warmup", "0.5")
    steps = course(tmp_path / "s")
    assert 2900 < result["tokens"] == steps["tokens"].sum() <= 3000
    n = len(steps["learning_rate"])
    assert np.argmax(steps["learning_rate"]) == -(-n // 2)
    down = np.diff(steps["learning_rate"][-(-n // 2) :])
    np.testing.assert_allclose(down, down[0], rtol=1e-6)  # a straight line
    ran = cli("finetune", tmp_path / "t", *on, "--max-tokens", "3")
    assert ran.code == 2
    assert "the first row alone has" in ran.error_line


def test_a_constant_schedule(cli: Cli, tmp_path: Path, on: Command) -> None:
    ok(cli, "finetune", tmp_path / "s", *on, "--schedule", "constant", "--warmup", "0", "--lr", "1e-3")
    assert set(course(tmp_path / "s")["learning_rate"].tolist()) == {1e-3}


def test_seeds_make_a_run_each(cli: Cli, tmp_path: Path, on: Command) -> None:
    store = tmp_path / "s"
    found = ok(cli, "finetune", store, *on, "--epochs", "1", "--seeds", "0,3")
    assert [run["artefact"] for run in found["runs"]] == ["runs/r.s0", "runs/r.s3"]
    assert weights(store, "r.s0") != weights(store, "r.s3")
    group = zarr.open_group(store / "arrays.zarr" / "runs" / "r.s3", mode="r")
    assert (group.attrs["group"], group.attrs["spec"]["seed"]) == ("r", 3)
    alone = ok(cli, "finetune", tmp_path / "t", *on, "--epochs", "1", "--seed", "3")
    assert weights(tmp_path / "t") == weights(store, "r.s3")
    assert alone["digest"] == found["runs"][1]["digest"]
    assert ok(cli, "finetune", store, *on, "--epochs", "1", "--seeds", "0,3") == found


def test_the_best_adapter_on_rows_held_out_is_kept(cli: Cli, tmp_path: Path, write_jsonl: Writer, on: Command) -> None:
    """A learning rate that overshoots: the loss on rows held out rises after the first evaluations."""
    store = tmp_path / "s"
    held = ["--hold-out", "0.25", "--epochs", "12", "--lr", "0.2", "--checkpoint-steps", "2", "--schedule", "constant"]
    held += ["--warmup", "0"]
    result = ok(cli, "finetune", store, *on, *held, "--patience", "2")
    steps = course(store)
    evaluated = np.flatnonzero(~np.isnan(steps["held_out_loss"]))
    assert result["steps"] < result["planned_steps"] == 36
    assert (evaluated == np.arange(1, result["steps"], 2)).all()
    best = int(np.nanargmin(steps["held_out_loss"]))
    assert result["best_step"] == best + 1 == result["steps"] - 4
    assert np.isnan(steps["loss"][result["steps"] :]).all()
    assert (steps["tokens"][result["steps"] :] == 0).all()
    assert result["held_out"] == 6
    short = ["--hold-out", "0.25", "--lr", "0.2", "--checkpoint-steps", "2", "--schedule", "constant", "--warmup", "0"]
    assert ok(cli, "finetune", store, *on, *held, "--patience", "2") == result
    card = (store / "adapters/r/README.md").read_text()
    assert f"after step {best + 1}, whose weights these are" in card
    # The weights of the best step: what a run that ends there has.
    until = int(steps["tokens"][: best + 1].sum())
    ok(cli, "finetune", tmp_path / "t", *on, *short, "--max-tokens", str(until))
    assert weights(tmp_path / "t") == weights(store)


def test_going_on_from_an_adapter(cli: Cli, tmp_path: Path, on: Command, model_dir: Path, data: Path) -> None:
    store = tmp_path / "s"
    ok(cli, "finetune", store, *on, "--epochs", "1", "--rank", "4", "--target-modules", "q_proj,v_proj")
    first = weights(store)
    second = ["--model", model_dir, "--train", data, "--name", "second", "--init-adapter", "r", "--epochs", "1"]
    ok(cli, "finetune", store, *second, "--lr", "1e-12")
    assert weights(store) == first
    import safetensors.torch

    a, b = safetensors.torch.load(first), safetensors.torch.load(weights(store, "second"))
    assert a.keys() == b.keys()
    assert all(np.allclose(a[key], b[key], atol=1e-9) for key in a)  # it began there
    group = zarr.open_group(store / "arrays.zarr" / "runs" / "second", mode="r")
    assert group.attrs["parents"]["runs/r"]
    assert group.attrs["spec"]["rank"] == 4
    ran = cli("finetune", store, *second, "--rank", "8")
    assert ran.code == 2
    assert "--rank 8: the adapter r has 4" in ran.error_line


@pytest.mark.parametrize("modules", ["all-linear", "q_proj,v_proj"])
def test_a_dry_run_of_going_on_from_an_adapter(
    modules: str, cli: Cli, tmp_path: Path, on: Command, model_dir: Path, data: Path
) -> None:
    """Its file lists the layers by their whole paths; it is as large as it is."""
    store = tmp_path / "s"
    options = ["--epochs", "1", "--rank", "4", "--target-modules", modules]
    expected = ok(cli, "finetune", store, *on, *options, "--dry-run")["adapter_parameters"]
    ok(cli, "finetune", store, *on, *options)
    second: Command = ["--model", model_dir, "--train", data, "--name", "second", "--init-adapter", "r"]
    assert ok(cli, "finetune", store, *second, "--dry-run")["adapter_parameters"] == expected


def test_bfloat16_keeps_the_adapter_in_float32(cli: Cli, tmp_path: Path, on: Command) -> None:
    import safetensors.torch

    result = ok(cli, "finetune", tmp_path / "s", *on, "--dtype", "bfloat16", "--epochs", "1")
    assert [path.name for path in (tmp_path / "s/adapters/r/checkpoints").iterdir()] == ["checkpoint-3"]  # of three
    assert np.isfinite(result["last_loss"])
    assert {str(x.dtype) for x in safetensors.torch.load(weights(tmp_path / "s")).values()} == {"torch.float32"}


def test_a_dry_run_holds_out_of_rows_and_not_of_their_repeats(cli: Cli, tmp_path: Path, on: Command) -> None:
    model, data = on[1], on[3]

    def bill(times: str, *options: str) -> tuple[int, int, int]:
        train: Command = ["--model", model, "--train", f"{data}{times}", "--batch-size", "8", "--name", "r"]
        found = ok(cli, "finetune", tmp_path / "s", *train, *options, "--dry-run")
        return found["rows"], found["held_out"], found["steps"]

    assert bill("=3", "--hold-out", "0.25") == (54, 6, 21)  # 18 of 24 rows, three times
    assert bill("=0.5", "--hold-out", "0.25", "--hold-out-of", str(data)) == (9, 3, 6)
    assert bill("", "--hold-out", "0.1875") == (19, 5, 9)  # 4.5 rows: halves up, as the training has it
    sweep = ("--lr-find", "--lr-rates", "1e-4,1e-3")
    assert bill("=3", *sweep) == (57, 5, 48)  # .2 of 24 rows; two trials of three times eight steps


def test_a_dry_run_is_the_bill_of_the_run(cli: Cli, tmp_path: Path, on: Command) -> None:
    options: Command = [*on, "--hold-out", "0.25", "--rank", "4", "--target-modules", "q_proj,v_proj"]
    bill = ok(cli, "finetune", tmp_path / "s", *options, "--dry-run")
    assert not (tmp_path / "s").exists()
    run = ok(cli, "finetune", tmp_path / "s", *options)
    assert (bill["rows"], bill["held_out"], bill["steps"]) == (run["rows"], run["held_out"], run["steps"])
    assert bill["tokens"] == pytest.approx(run["tokens"], rel=0.1)  # those held out may be long or short ones
    import safetensors.torch

    assert bill["adapter_parameters"] == sum(
        x.numel() for x in safetensors.torch.load(weights(tmp_path / "s")).values()
    )
    adapter = tmp_path / "s" / "adapters"
    assert bill["disk_bytes"] > 4 * bill["adapter_parameters"]
    assert sum(p.stat().st_size for p in adapter.rglob("*.safetensors")) < bill["disk_bytes"] + 20_000
    assert bill["memory_bytes"] > (Path(on[1]) / "model.safetensors").stat().st_size
    again = ok(
        cli, "finetune", tmp_path / "s", *options, "--dry-run", "--max-tokens", "5000", "--gradient-checkpointing"
    )
    assert again["tokens"] == 5000
    assert again["memory_bytes"] < bill["memory_bytes"]
    assert again["seconds"] > 0
    ran = cli("finetune", tmp_path / "s", *on, "--dry-run", "--seeds", "0,1")
    assert "finetune: 24 rows per epoch, 9 steps, about" in ran.out
    assert ", for each seed" in ran.out
    ran = cli("finetune", tmp_path / "none", "--model", on[1], "--train", "picked", "--name", "r", "--dry-run")
    assert ran.code == 2
    assert "no such file, and no store yet" in ran.error_line


MISTAKES: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "no weight": (["--train", "picked=half"], 2, ("'half' is not a valid weight", "0.5 draws half")),
    "unknown set": (["--train", "picked=0.5"], 2, ("--train picked:", "no such file")),
    "two ends": (["--epochs", "2", "--max-tokens", "99"], 2, ("--epochs and --max-tokens", "one of them")),
    "patience alone": (["--patience", "2"], 2, ("--hold-out 0.1",)),
    "hold out all": (["--hold-out", "1"], 2, ("--hold-out 1.0", "less than 1")),
    "hold out nearly all": (["--hold-out", "0.99"], 1, ("none are left to train on", "smaller share")),
    "warm-up of all": (["--warmup", "1.5"], 2, ("--warmup 1.5",)),
    "schedule": (["--schedule", "cosy"], 2, ("--schedule", "cosine")),
    "negative rate": (["--lr", "-1"], 2, ("--lr -1.0: must be positive",)),
    "seeds": (["--seeds", "1,x"], 2, ("--seeds 1,x", "--seeds 0,1,2")),
    "a seed twice": (["--seeds", "1,1"], 2, ("--seeds 1,1", "different")),
    "seed and seeds": (["--seeds", "1,2", "--seed", "1"], 2, ("--seed and --seeds",)),
    "no such layer": (["--target-modules", "x_proj"], 2, ("x_proj", "q_proj")),
    "no such adapter": (["--init-adapter", "gone"], 2, ("--init-adapter gone", "no folder")),
    "half precision on a CPU": (["--dtype", "float16", "--device", "cpu"], 2, ("--dtype float16", "bfloat16")),
}


@pytest.mark.parametrize("what", list(MISTAKES))
def test_mistakes(what: str, cli: Cli, tmp_path: Path, on: Command) -> None:
    options, code, expected = MISTAKES[what]
    ran = cli("finetune", tmp_path / "s", *on, *options)
    assert ran.code == code, ran.err
    for text in expected:
        assert text in ran.error_line
    assert not (tmp_path / "s" / "adapters" / "r" / "adapter_model.safetensors").exists()


def test_a_quantised_base_that_can_not_be_trained_on(cli: Cli, tmp_path: Path, data: Path) -> None:
    model = save_model(tmp_path / "m")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gguf", "gguf_file": "m.gguf", "dequantize": False}
    (model / "config.json").write_text(json.dumps(config))
    ran = cli("finetune", tmp_path / "s", "--model", model, "--train", data, "--name", "r")
    assert ran.code == 2
    assert "quantised by gguf, which can't be trained on" in ran.error_line
    assert "quantised by bitsandbytes" in ran.error_line


def test_another_setting_is_refused_by_name(cli: Cli, tmp_path: Path, on: Command) -> None:
    ok(cli, "finetune", tmp_path / "s", *on, "--epochs", "1")
    before = tree(tmp_path / "s")
    for change, flag in ((["--epochs", "2"], "--epochs"), (["--epochs", "1", "--hold-out", "0.1"], "--hold-out")):
        ran = cli("finetune", tmp_path / "s", *on, *change)
        assert ran.code == 12
        assert f"({flag}" in ran.error_line or f", {flag}" in ran.error_line
    assert tree(tmp_path / "s") == before


def test_a_loss_that_is_not_finite_names_the_rows(
    cli: Cli, tmp_path: Path, on: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row whose answer no model can bear."""
    wanted = json.loads(data.read_text().splitlines()[5])

    def poison(self: Any, batch: dict[str, Any], group: Any, *rest: Any) -> Any:
        total = whole(self, batch, group, *rest)
        marks = [len(wanted["prompt"]), len(wanted["completion"])]
        bad = any(int((batch["labels"][i] >= 0).sum()) == marks[1] + 1 and is_wanted(batch, i) for i in group.tolist())
        return total * math.nan if bad else total

    def is_wanted(batch: dict[str, Any], i: int) -> bool:
        return wanted["prompt"] in tokenizer.decode(batch["input_ids"][i])

    from tests.conftest import make_tokenizer

    tokenizer = make_tokenizer()
    whole = ntkcli.engine.training.loss.StepLoss._sum
    monkeypatch.setattr(ntkcli.engine.training.loss.StepLoss, "_sum", poison)
    ran = cli("finetune", tmp_path / "s", *on)
    assert ran.code == 1
    assert "is nan: only 1 of its 8 rows make it so" in ran.error_line
    assert "d.jsonl line 6 (id 0-5). Take them out" in ran.error_line
    assert not (tmp_path / "s" / "adapters" / "r" / "ntksel.json").exists()


def test_kill_with_rows_held_out(cli: Cli, tmp_path: Path, on: Command) -> None:
    options = [*map(str, on), "--epochs", "8", "--checkpoint-steps", "3", "--hold-out", "0.2", "--patience", "99"]
    ok(cli, "finetune", tmp_path / "unbroken", *options, "--keep-optimizer")
    killed = tmp_path / "killed"
    checkpoints = killed / "adapters" / "r" / "checkpoints"
    command = [sys.executable, "-m", "ntkcli", "finetune", str(killed), *options, "--keep-optimizer", "-q"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and newest(checkpoints) < 9:  # the third checkpoint has begun: it is half written
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == -signal.SIGKILL, stderr
    assert newest(checkpoints) < 24
    ok(cli, "finetune", killed, *options, "--keep-optimizer")
    assert tree(killed) == tree(tmp_path / "unbroken")


def newest(checkpoints: Path) -> int:
    return max((int(path.name.rpartition("-")[2]) for path in checkpoints.glob("checkpoint-*")), default=0)


def test_a_damaged_part_of_the_course_is_redone(cli: Cli, tmp_path: Path, on: Command) -> None:
    store = tmp_path / "s"
    ok(cli, "finetune", store, *on, "--epochs", "4", "--checkpoint-steps", "4")
    before = tree(store)
    (store / "arrays.zarr/runs/r/loss/c/1").write_bytes(b"torn")
    assert cli("info", store, "--verify", "--repair").code in (0, 1)
    ok(cli, "finetune", store, *on, "--epochs", "4", "--checkpoint-steps", "4")
    assert tree(store) == before


def test_too_little_room_is_refused_before_training(cli: Cli, small_disk: Path, on: Command) -> None:
    filler = fill(small_disk, leave=900_000)
    ran = cli("finetune", small_disk / "s", *on, "--rank", "64")
    assert ran.code == 1
    assert "runs/r needs" in ran.error_line
    assert "`ntksel rm`" in ran.error_line
    filler.unlink()
    ok(cli, "finetune", small_disk / "s", *on, "--rank", "64")


def test_a_disk_that_fills_up_on_the_way(
    cli: Cli, small_disk: Path, tmp_path: Path, on: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program takes the room after the start: one line, and the same command goes on once there is room."""
    ok(cli, "finetune", tmp_path / "s", *on, "--rank", "64")
    for leave in (500_000, 800_000, 1_000_000):
        filler = fill(small_disk, leave=leave)
        with monkeypatch.context() as patch:
            patch.setattr(store, "free_bytes", lambda path: 1 << 40)
            ran = cli("finetune", small_disk / "s", *on, "--rank", "64")
        assert ran.code == 1
        assert "run the same command again" in ran.error_line
        filler.unlink()
    ok(cli, "finetune", small_disk / "s", *on, "--rank", "64")
    assert weights(small_disk / "s") == weights(tmp_path / "s")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of the next transformers
def test_plain_peft_computes_what_was_trained(cli: Cli, tmp_path: Path, on: Command, model_dir: Path) -> None:
    """Logits of peft's model against W + s·BA by hand, from the file alone."""
    import safetensors.torch
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ok(cli, "finetune", tmp_path / "s", *on, "--lr", "0.05", "--rank", "4", "--alpha", "12")
    ids = torch.arange(5, 25)[None]
    plain = AutoModelForCausalLM.from_pretrained(model_dir)
    base = plain(ids).logits
    adapter = safetensors.torch.load(weights(tmp_path / "s"))
    with torch.no_grad():
        for key, b in adapter.items():
            if ".lora_B." in key:
                a = adapter[key.replace("lora_B", "lora_A")]
                path = key.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
                plain.get_submodule(path).weight += 3.0 * b @ a
    by_hand = plain(ids).logits
    fresh = AutoModelForCausalLM.from_pretrained(model_dir)
    peft_model = PeftModel.from_pretrained(fresh, str(tmp_path / "s/adapters/r"))
    torch.testing.assert_close(peft_model(ids).logits, by_hand, rtol=1e-4, atol=1e-4)
    assert (by_hand - base).abs().max() > 1e-3


def test_the_card_tells_all_and_takes_names_as_text(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    data = write_jsonl("a|b `x` <img src=x onerror=alert(1)>.jsonl", prompt_rows(10))
    store = tmp_path / "s"
    result = ok(cli, "finetune", store, "--model", model_dir, "--train", f"{data}=0.5", "--name", "r", "--epochs", "1")
    card = (store / "adapters/r/README.md").read_text()
    head = ModelCard(card).data.to_dict()
    assert (head["base_model"], head["library_name"], head["tags"]) == (str(model_dir), "peft", ["lora", "ntksel"])
    assert "\\|b `x` <img src=x onerror=alert(1)>.jsonl`` | 5 | 0.5 |" in card  # a span of two backticks
    assert f"ntksel finetune {store} --model {model_dir} --train '{data}=0.5' --name r --epochs 1\n" in card
    assert f"| `tokens` | `{result['tokens']:,}` |" in card
    spec = json.loads(card.partition("```json\n")[2].partition("```")[0])
    assert spec["train"][0]["times"] == 0.5
