"""A row that does not fit in memory is called by its name, whatever computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ntkcli.engine.evaluation.evaluator import Evaluator
from ntkcli.engine.memory import DoesNotFitError, TokenBudget, run_batches
from ntkcli.errors import NtkselError
from ntkcli.steps.shared.fitting import alone, naming
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows

FULL = torch.OutOfMemoryError("CUDA out of memory.")


def test_the_row_that_does_not_fit_is_named() -> None:
    def compute(where: np.ndarray) -> None:
        if 1 in where:
            raise FULL

    told = pytest.raises(NtkselError, match="two does not fit in memory, even alone: it has 9 tokens")
    with told as refused, naming(["one", "two"], "Give a shorter one."):
        run_batches([3, 9], TokenBudget(100), compute)
    assert refused.value.fix == "Give a shorter one."


def test_one_row_alone() -> None:
    assert alone(lambda: 3, name="x", tokens=5) == 3

    def full() -> int:
        raise FULL

    with pytest.raises(NtkselError, match=r"x does not fit in memory, even alone: it has 5 tokens.*--max-length"):
        alone(full, name="x", tokens=5)
    with pytest.raises(ValueError, match="other"):
        alone(lambda: int("other"), name="x", tokens=5)


def test_a_row_held_out_of_a_sweep_is_named(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Evaluator, items: list[object]) -> None:
        raise DoesNotFitError(1, 70)

    monkeypatch.setattr(Evaluator, "logliks", full)
    data = write_jsonl("d.jsonl", prompt_rows(8))
    ran = cli(
        "finetune",
        tmp_path / "s",
        "--train",
        data,
        "--name",
        "r",
        "--lr-find",
        "--hold-out",
        ".3",
        "--model",
        model_dir,
    )
    assert ran.code == 1
    assert "d.jsonl line" in ran.error_line
    assert "does not fit in memory, even alone: it has 70 tokens" in ran.error_line
