"""Finetune as a function: what is trained on, what is refused, what a second process may do."""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.errors import BusyError, DataError, NtkselError, UsageError
from ntkcli.identity import ModelIdentity
from ntkcli.steps.shared.cost import hidden_size
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune
from ntkcli.steps.training.settings import usual_rate
from ntkcli.steps.upkeep.verify import verify
from tests.conftest import Writer, prompt_rows


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of the next transformers
def test_adapter_loads_in_plain_peft_and_learns(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    data = write_jsonl("d.jsonl", [{**row, "completion": "yes"} for row in prompt_rows(24)])
    result = finetune(
        tmp_path / "s", model=str(model_dir), train=[str(data)], name="r", lr=2e-2, epochs=8, batch_size=8
    )
    assert result.last_loss < result.first_loss - 0.2  # the tiny head bounds its logits by 0.6, and so the loss
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir), result.adapter)
    b = [p for n, p in model.named_parameters() if "lora_B" in n]
    assert len(b) == 14
    assert all(bool(torch.any(p != 0)) for p in b)
    course = open_store(tmp_path / "s").get("runs/r")
    assert course.read("tokens").sum() == result.tokens
    assert np.argmax(course.read("learning_rate")) == 1  # one step of warm-up, then down


def test_a_diverged_run_stops_and_names_the_step(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(24))
    with pytest.raises(NtkselError, match=r"loss of step \d+ is .*Lower --lr"):
        finetune(tmp_path / "s", model=str(model_dir), train=[str(data)], name="r", lr=1e30, batch_size=8)


def test_rows_without_answers_are_nothing_to_train_on(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    rows: list[Any] = [{"messages": [{"role": "user", "content": "hello"}]}] * 3
    data = write_jsonl("d.jsonl", rows)
    with pytest.raises(DataError, match="no row has an answer"):
        finetune(tmp_path / "s", model=str(model_dir), train=[str(data)], name="r")


def test_two_processes_do_not_train_one_run(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(8))
    folder = tmp_path / "s" / "adapters" / "r"
    open_store(tmp_path / "s", create=True)
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="Another process is training r"):
            finetune(tmp_path / "s", model=str(model_dir), train=[str(data)], name="r")
    assert finetune(tmp_path / "s", model=str(model_dir), train=[str(data)], name="r").steps == 3


def test_the_kept_moments_are_adams_own(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """One step from zero moments: m = (1 - beta1) g and v = (1 - beta2) g² of the same g."""
    import safetensors
    import torch

    data = write_jsonl("d.jsonl", prompt_rows(8))
    given: dict[str, Any] = {"model": str(model_dir), "train": [str(data)], "name": "r", "epochs": 1, "batch_size": 8}
    result = finetune(tmp_path / "s", **given, keep_optimizer=True)
    with safetensors.safe_open(Path(result.adapter) / "optimizer.safetensors", "pt") as file:
        metadata, moments = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    course = open_store(tmp_path / "s").get("runs/r")
    assert int(metadata["step"]) == result.steps == 1
    assert float(metadata["mean_learning_rate"]) == course.read("learning_rate").mean()
    beta1, beta2 = float(metadata["beta1"]), float(metadata["beta2"])
    with safetensors.safe_open(Path(result.adapter) / "adapter_model.safetensors", "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    layers = {key.removeprefix("base_model.model.").removesuffix(".weight") for key in weights}
    assert set(moments) == {f"{layer}.{moment}" for layer in layers for moment in ("exp_avg", "exp_avg_sq")}
    for layer in layers:
        m, v = moments[f"{layer}.exp_avg"], moments[f"{layer}.exp_avg_sq"]
        assert m.dtype == v.dtype == torch.float32
        assert m.shape == weights[f"base_model.model.{layer}.weight"].shape
        torch.testing.assert_close(v, (m / (1 - beta1)) ** 2 * (1 - beta2))


def test_moments_can_be_had_of_a_finished_run(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(24))
    given: dict[str, Any] = {"model": str(model_dir), "train": [str(data)], "name": "r", "batch_size": 8}
    first = finetune(tmp_path / "s", **given)
    moments, adapter = Path(first.adapter) / "optimizer.safetensors", Path(first.adapter) / "adapter_model.safetensors"
    assert not moments.exists()
    before = adapter.read_bytes()
    assert finetune(tmp_path / "s", **given, keep_optimizer=True) == first
    assert adapter.read_bytes() == before
    finetune(tmp_path / "at-once", **given, keep_optimizer=True)
    assert moments.read_bytes() == (tmp_path / "at-once/adapters/r/optimizer.safetensors").read_bytes()
    moments.write_bytes(moments.read_bytes()[:-1] + b"x")
    (finding,) = verify(tmp_path / "s").findings
    assert "optimizer.safetensors has the digest" in str(finding)


def test_stages_losses_per_row_and_averaged_weights_are_in_the_spec(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    """Each changes the weights, and none changes the spec of a run without it."""
    import safetensors.torch

    rows = prompt_rows(24)
    first, second = write_jsonl("a.jsonl", rows[:16]), write_jsonl("b.jsonl", rows[16:])
    shared: dict[str, Any] = {"model": str(model_dir), "epochs": 2, "batch_size": 4, "lr": 1e-2}
    both = {"train": [str(first), str(second)]}
    made = {
        "plain": finetune(tmp_path / "s", name="plain", **shared, **both),
        "row": finetune(tmp_path / "s", name="row", **shared, **both, loss_per="row"),
        "average": finetune(tmp_path / "s", name="average", **shared, **both, average_weights=True),
        "stages": finetune(tmp_path / "s", name="stages", **shared, train=[str(first)], then=[str(second)]),
    }
    weights = {
        name: safetensors.torch.load_file(Path(result.adapter) / "adapter_model.safetensors")
        for name, result in made.items()
    }
    for name in ("row", "average", "stages"):
        assert any(not weights[name][key].equal(weights["plain"][key]) for key in weights["plain"])
    stored = open_store(tmp_path / "s")
    plain = stored.get("runs/plain").spec
    assert not {"loss_per", "average_weights", "then"} & set(plain)
    assert stored.get("runs/row").spec["loss_per"] == "row"
    assert stored.get("runs/stages").spec["then"] == [plain["train"][1]]
    order = stored.get("runs/stages").read("tokens")
    assert made["stages"].steps == len(order) == 2 * 4 + 2 * 2
    lone = finetune(tmp_path / "s", name="lone", **shared, train=[str(first)])
    assert (order[:8] == stored.get("runs/lone").read("tokens")).all()
    assert lone.steps == 8
    with pytest.raises(UsageError, match="--then makes two stages"):
        finetune(
            tmp_path / "s", model=str(model_dir), name="x", train=[str(first)], then=[str(second)], max_tokens=9999
        )
    with pytest.raises(UsageError, match="--average-weights keeps the mean"):
        finetune(tmp_path / "s", name="x", **shared, **both, average_weights=True, hold_out=0.2)


@pytest.mark.parametrize(("width", "rate"), [(64, 1e-3), (576, 1e-3), (1024, 8.4e-4), (2048, 4.9e-4), (4096, 2.9e-4)])
def test_the_usual_rate_falls_with_the_width(width: int, rate: float) -> None:
    assert usual_rate(width) == rate


def test_without_lr_the_rate_of_the_width_is_trained_at_and_kept(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ntkcli.steps.training.settings.hidden_size", lambda model: 4096)
    data = write_jsonl("d.jsonl", prompt_rows(8))
    finetune(tmp_path / "s", model=str(model_dir), train=[str(data)], name="r", epochs=1, batch_size=8, warmup=0)
    run = open_store(tmp_path / "s").get("runs/r")
    assert run.spec["lr"] == 2.9e-4
    assert run.read("learning_rate").max() == pytest.approx(2.9e-4)


@pytest.mark.parametrize("config", [{"hidden_size": 48}, {"text_config": {"hidden_size": 48}}])
def test_the_width_is_read_without_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert hidden_size(ModelIdentity("m", tmp_path, None, {})) == 48


def test_the_width_of_a_gpt2_is_found(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(n_embd=24).save_pretrained(tmp_path)
    assert hidden_size(ModelIdentity("m", tmp_path, None, {})) == 24
