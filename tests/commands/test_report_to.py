"""`finetune --report-to`: what arrives in tensorboard is what the store has; nothing else changes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training import reporters
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows

pytest.importorskip("tensorboard")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag → (step, value), read with tensorboard's own record format and messages."""
    from tensorboard.compat.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                number = value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def words(store: Path, model: Path, data: Path, *more: str) -> list[Any]:
    return [
        "finetune", store, "--model", model, "--train", data, "--epochs", "2", "--rank", "2", "--batch-size", "4",
        "--hold-out", "0.3", "--checkpoint-steps", "2", "--name", "r", *more,
    ]  # fmt: skip


def test_values_arrive_and_change_nothing(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(14))
    ran = cli(*words(tmp_path / "s", model_dir, data, "--report-to", "tensorboard", "--json"))
    assert ran.code == 0, ran.err
    plain = cli(*words(tmp_path / "t", model_dir, data, "--json"))
    assert json.loads(ran.out)["digest"] == json.loads(plain.out)["digest"]
    runs = [open_store(tmp_path / name).get("runs/r") for name in "st"]
    assert runs[0].fingerprint == runs[1].fingerprint
    names = ["adapter_config.json", "adapter_model.safetensors"]
    assert all(
        (tmp_path / "s/adapters/r" / name).read_bytes() == (tmp_path / "t/adapters/r" / name).read_bytes()
        for name in names
    )
    assert not (tmp_path / "t/reports").exists()
    found = scalars(tmp_path / "s/reports/tensorboard/r")
    loss = dict(found["train/loss"])
    assert sorted(loss) == list(range(1, runs[0].n + 1))
    np.testing.assert_allclose([loss[i + 1] for i in range(runs[0].n)], runs[0].read("loss"), rtol=1e-5)
    rates = dict(found["train/learning_rate"])
    np.testing.assert_allclose(
        [rates[i + 1] for i in range(runs[0].n)], runs[0].read("learning_rate"), rtol=1e-5, atol=1e-9
    )
    held = runs[0].read("held_out_loss")
    measured = dict(found["eval/loss"])
    assert sorted(measured) == [int(i) + 1 for i in np.flatnonzero(~np.isnan(held))]
    np.testing.assert_allclose([measured[step] for step in sorted(measured)], held[~np.isnan(held)], rtol=1e-5)


def test_a_service_that_fails_is_named_and_the_run_goes_on(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations import TensorBoardCallback

    def on_log(self: Any, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == 3:
            raise ConnectionError("the service is away")

    data = write_jsonl("d.jsonl", prompt_rows(14))
    monkeypatch.setattr(TensorBoardCallback, "on_log", on_log)
    ran = cli(*words(tmp_path / "s", model_dir, data, "--report-to", "tensorboard"))
    assert ran.code == 1
    assert "--report-to tensorboard: the service is away. Fix that or leave --report-to out" in ran.error_line
    ran = cli(*words(tmp_path / "s", model_dir, data))
    assert ran.code == 0, ran.err
    assert "resuming from step 2" in ran.err


def test_refused_before_anything_is_made(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(6))
    monkeypatch.setattr(reporters, "find_spec", lambda _: None)
    for more in ([], ["--dry-run"]):
        ran = cli(*words(tmp_path / "s", model_dir, data, "--report-to", "wandb", *more))
        assert ran.code == 2
        assert "needs the package wandb, which is not installed. pip install wandb" in ran.error_line
    ran = cli(*words(tmp_path / "s", model_dir, data, "--report-to", "paper"))
    assert "--report-to paper: expected one of" in ran.error_line
    assert not (tmp_path / "s").exists()


def test_the_names_are_transformers() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(reporters.PACKAGES) == set(INTEGRATION_TO_CALLBACK) - {"kubeflow"}  # which only runs inside a cluster
