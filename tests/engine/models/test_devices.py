"""Devices and dtypes, on machines that this one is not: numbers of devices and what they can are put in its place."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ntkcli.app import run
from ntkcli.engine.models.devices import pick_device, pick_dtype, train_on
from ntkcli.errors import UsageError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


def test_which_device(two_gpus: None) -> None:
    assert pick_device("auto") == torch.device("cuda:0")
    assert pick_device("cuda") == torch.device("cuda:0")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="this machine shows 2 CUDA devices"):
        pick_device("cuda:2")
    for name in ("mps", "xpu", "meta", "mps:0"):
        with pytest.raises(UsageError, match=r"only CPUs and CUDA devices.*--device cpu"):
            pick_device(name)
    with pytest.raises(UsageError, match="no such device"):
        pick_device("gpu")


def test_training_stays_on_the_device_of_the_model(two_gpus: None, tmp_path: Path) -> None:
    """transformers takes the first device of the machine; what moves the batches is accelerate behind it."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from transformers import TrainingArguments

    try:
        arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none")
        assert arguments.device == torch.device("cuda:0")
        train_on(arguments, torch.device("cuda:1"))
        assert arguments.device == torch.device("cuda:1")
        assert arguments.n_gpu == 1
        assert arguments.train_batch_size == arguments.per_device_train_batch_size
        assert Accelerator().device == torch.device("cuda:1")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()


@pytest.mark.parametrize(("major", "expected"), [(7, "float32"), (8, "bfloat16")])
def test_bfloat16_only_where_it_is_not_emulated(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch, major: int, expected: str
) -> None:
    """The second device is asked, not the first; Turing (7.5) would emulate."""
    current = [0]

    class Inside:
        def __init__(self, device: torch.device) -> None:
            self.index = device.index or 0

        def __enter__(self) -> None:
            current[0] = self.index

        def __exit__(self, *_: object) -> None:
            current[0] = 0

    monkeypatch.setattr(torch.cuda, "device", Inside)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major if device == 1 else 9)
    )
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert pick_dtype("auto", torch.device("cuda:1")) == expected
    assert pick_dtype("auto", torch.device("cpu")) == "float32"
    assert pick_dtype("float16", torch.device("cuda:1")) == "float16"


def test_an_apple_device_is_refused_in_one_line(
    tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "a?", "completion": "b"}\n')
    for command in (
        ["featurize", "--data", str(data), "--name", "d", "--kind", "ntk"],
        ["finetune", "--train", str(data), "--name", "r"],
        ["eval", "--run", "base", "--task", str(data), "--scorer", "loss", "--name", "e"],
    ):
        assert run([command[0], str(tmp_path / "s"), *command[1:], "--model", str(model_dir), "--device", "mps"]) == 2
        assert "--device mps: only CPUs and CUDA devices are supported. Give --device cpu." in capsys.readouterr().err
