"""A machine with room for some tokens only: the same numbers in smaller batches, and a row too long is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.steps.shared.stores import open_store
from tests.broken import ERRORS, limit_memory, plain_model
from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows

LIMIT = 100
"""Above every row of `prompt_rows`, and above the small items that a model is looked at with when it is loaded."""
FULL = ["--batch-tokens", "4000"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_model(tmp_path_factory.mktemp("plain"))


def long_row(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "prompt": " ".join(["red"] * 60)}


def featurize(model: Path, data: Path, name: str, *more: str) -> list[str | Path]:
    return ["--data", data, "--name", name, "--model", model, "--kind", "ntk", "--dim", "64", *more]


@pytest.mark.parametrize("error", list(ERRORS))
def test_features_and_exact_scores_are_the_same_in_smaller_batches(
    error: str, cli: Cli, tmp_path: Path, model: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = {name: write_jsonl(f"{name}.jsonl", prompt_rows(12, seed=i)) for i, name in enumerate("dp")}
    exact = ["--pool", "p", "--domain", "d", "--method", "exact", "--name", "x", *FULL]
    for path in (tmp_path / "free", tmp_path / "full"):
        if path.name == "full":
            seen = limit_memory(monkeypatch, LIMIT, error=error)
        for name, data in sides.items():
            assert cli("featurize", path, *featurize(model, data, name, *FULL)).code == 0
        ran = cli("score", path, *exact)
        assert ran.code == 0, ran.err
        assert ("memory ran out: batches went from 4000 to" in ran.err) == (path.name == "full")
    assert max(seen) > LIMIT
    found, expected = (open_store(tmp_path / name) for name in ("full", "free"))
    for artefact, column in (("features/p/ntk", "norm"), ("scores/x", "score")):
        values = (stored.get(artefact).read(column) for stored in (found, expected))
        np.testing.assert_allclose(*values, rtol=1e-4)


@pytest.mark.parametrize("scorer", ["choices", "generate", "loss"])
def test_evaluation_is_the_same_in_smaller_batches(
    scorer: str, cli: Cli, tmp_path: Path, model: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One item's choices don't fit together, but each does."""
    rows: list[dict[str, Any]] = choice_rows(12)
    if scorer == "choices":
        rows[4]["choices"] = ["red " * n for n in (9, 10, 11)]
    data = write_jsonl("t.jsonl", rows)
    options = ["--run", "base", "--task", data, "--scorer", scorer, "--name", "e", "--max-new-tokens", "3", *FULL]
    assert cli("eval", tmp_path / "free", "--model", model, *options).code == 0
    seen = limit_memory(monkeypatch, LIMIT)
    ran = cli("eval", tmp_path / "full", "--model", model, *options)
    assert ran.code == 0, ran.err
    assert max(seen) > LIMIT
    found, expected = (open_store(tmp_path / name).get("evals/e/base") for name in ("full", "free"))
    column = {"choices": "loglik", "generate": "text", "loss": "nll"}[scorer]
    if scorer == "generate":
        assert found.read(column).tolist() == expected.read(column).tolist()
    else:
        np.testing.assert_allclose(found.read(column), expected.read(column), atol=1e-4)


@pytest.mark.parametrize("what", ["ntk", "embed", "choices", "generate", "loss", "train"])
def test_a_row_that_does_not_fit_alone_is_named(
    what: str, cli: Cli, tmp_path: Path, model: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = choice_rows(9) if what == "choices" else prompt_rows(9)
    rows[5] = long_row(rows[5])
    data, path = write_jsonl("d.jsonl", rows), tmp_path / "s"
    limit_memory(monkeypatch, LIMIT)
    if what in ("ntk", "embed"):
        ran = cli("featurize", path, "--data", data, "--name", "d", "--model", model, "--kind", what)
    elif what == "train":
        ran = cli("finetune", path, "--model", model, "--train", data, "--name", "r", "--epochs", "1")
    else:
        ran = cli("eval", path, "--model", model, "--run", "base", "--task", data, "--scorer", what, "--name", "e")
    assert ran.code == 1
    assert f"d.jsonl line 6 (id {rows[5]['id']}) does not fit in memory, even alone: it has " in ran.error_line
    assert "bug" not in ran.error_line
    assert "--max-length" in ran.error_line
    extra = {"train": "--gradient-checkpointing", "generate": "--max-new-tokens"}.get(what, "--dtype bfloat16")
    assert extra in ran.error_line


def test_exact_names_rows_of_both_sides(
    cli: Cli, tmp_path: Path, model: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = prompt_rows(9)
    long[5] = long_row(long[5])
    path = tmp_path / "s"
    for name, rows in (("long", long), ("short", prompt_rows(9, seed=1))):
        assert cli("featurize", path, *featurize(model, write_jsonl(f"{name}.jsonl", rows), name)).code == 0
    limit_memory(monkeypatch, LIMIT)
    for pool, domain in (("long", "short"), ("short", "long")):
        exact = ["--pool", pool, "--domain", domain, "--method", "exact", "--name", f"{pool}-{domain}"]
        ran = cli("score", path, *exact)
        assert ran.code == 1
        assert "long.jsonl line 6 (id 0-5) does not fit in memory, even alone: it has " in ran.error_line


def test_training_with_rows_held_out_is_the_same_in_smaller_batches(
    cli: Cli, tmp_path: Path, model: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(12))
    options = ["--model", model, "--train", data, "--name", "r", "--epochs", "2", "--hold-out", "0.5", *FULL]
    assert cli("finetune", tmp_path / "free", *options).code == 0
    seen = limit_memory(monkeypatch, LIMIT)
    ran = cli("finetune", tmp_path / "full", *options)
    assert ran.code == 0, ran.err
    assert max(seen) > LIMIT
    found, expected = (open_store(tmp_path / name).get("runs/r") for name in ("full", "free"))
    for column in ("loss", "held_out_loss"):
        np.testing.assert_allclose(found.read(column), expected.read(column), rtol=1e-4)


def test_a_held_out_row_that_does_not_fit_is_named(
    cli: Cli, tmp_path: Path, model: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are long, and memory runs out only while nothing is differentiated."""
    from transformers import LlamaModel

    data = write_jsonl("d.jsonl", [long_row(row) for row in prompt_rows(8)])
    real = LlamaModel.forward

    def forward(self: Any, input_ids: torch.Tensor, **others: Any) -> Any:
        if not torch.is_grad_enabled() and input_ids.numel() > LIMIT:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, input_ids=input_ids, **others)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    options = ["--model", model, "--train", data, "--name", "r", "--epochs", "1", "--hold-out", "0.25"]
    ran = cli("finetune", tmp_path / "s", *options)
    assert ran.code == 1
    assert "does not fit in memory, even alone" in ran.error_line
    assert "(id 0-" in ran.error_line


@pytest.mark.parametrize("error", [*ERRORS.values(), MemoryError])
def test_memory_that_runs_out_anywhere_else_is_no_bug(
    error: Any, cli: Cli, tmp_path: Path, model: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise error()

    monkeypatch.setattr("ntkcli.engine.models.loading.load_model", load)
    ran = cli("featurize", tmp_path / "s", *featurize(model, write_jsonl("d.jsonl", prompt_rows(3)), "d"))
    assert ran.code == 1
    assert ran.error_line.startswith("error: Out of memory: ")
    assert "--dtype bfloat16" in ran.error_line
    assert "bug" not in ran.error_line


def test_exact_takes_device_dtype_and_batch_tokens(cli: Cli, tmp_path: Path, model: Path, write_jsonl: Writer) -> None:
    """The dtype is the features' own unless another is asked for, which is in the spec; others refuse the options."""
    path = tmp_path / "s"
    for i, name in enumerate("dp"):
        data = write_jsonl(f"{name}.jsonl", prompt_rows(8, seed=i))
        assert cli("featurize", path, *featurize(model, data, name, "--dtype", "bfloat16")).code == 0
    sides = ["score", path, "--pool", "p", "--domain", "d", "--method"]
    for name, more in (("own", []), ("wide", ["--dtype", "float32", "--device", "cpu", "--batch-tokens", "64"])):
        assert cli(*sides, "exact", "--name", name, *more).code == 0
    own, wide = (open_store(path).get(f"scores/{name}") for name in ("own", "wide"))
    assert (own.spec["dtype"], wide.spec["dtype"]) == ("bfloat16", "float32")
    scores = own.read("score"), wide.read("score")
    assert not np.array_equal(*scores)
    np.testing.assert_allclose(*scores, rtol=0.1, atol=0.05 * np.abs(scores[1]).max())
    assert cli(*sides, "exact", "--name", "wide").code == 0, "auto goes on as it was begun"
    ran = cli(*sides, "exact", "--name", "wide", "--dtype", "bfloat16")
    assert ran.code == 12
    assert "(--dtype)" in ran.error_line
    assert cli(*sides, "exact", "--name", "z", "--device", "cuda:9").code == 2
    for option, value in (("--device", "cpu"), ("--dtype", "float32"), ("--batch-tokens", "64")):
        ran = cli(*sides, "mean", "--name", "z", option, value)
        assert ran.code == 2
        assert "exact" in ran.error_line
