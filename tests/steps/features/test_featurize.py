"""Featurize as a function: shards, parts, budgets and bad rows leave the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from ntkcli.errors import NtkselError
from ntkcli.progress import Silent
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.shared.stores import open_store
from tests.conftest import Writer, prompt_rows


def options(model: Path, data: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"data": data, "name": "d", "kind": "ntk", "model": str(model), "dim": 128}
    return settings | {"part_rows": 8, "batch_tokens": 256} | changes


def vectors(path: Path, feature: str = "ntk") -> np.ndarray:
    artefact = open_store(path).get(f"features/d/{feature}")
    return np.asarray(artefact.read("sketch" if feature == "ntk" else "embedding"), dtype=np.float64)


def test_shards_make_the_bytes_of_one_run(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(37))
    whole = featurize(tmp_path / "whole", **options(model_dir, data))
    for shard in ((2, 3), (0, 3), (1, 3)):
        part = featurize(tmp_path / "sharded", **options(model_dir, data, shard=shard))
    assert part.complete
    assert part.digest == whole.digest


@pytest.mark.parametrize("kind", ["ntk", "embed"])
def test_features_do_not_depend_on_parts_budget_or_order(
    kind: str, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    rows = prompt_rows(30)
    data = write_jsonl("d.jsonl", rows)
    featurize(tmp_path / "a", **options(model_dir, data, kind=kind))
    expected = vectors(tmp_path / "a", kind)
    for name, change in {"b": {"part_rows": 11}, "c": {"batch_tokens": 1}, "d": {"batch_tokens": 9999}}.items():
        featurize(tmp_path / name, **options(model_dir, data, kind=kind, **change))
        np.testing.assert_allclose(vectors(tmp_path / name, kind), expected, atol=1e-3)  # float16 of unit rows
    order = np.random.default_rng(0).permutation(30)
    shuffled = write_jsonl("e.jsonl", [rows[i] for i in order])
    featurize(tmp_path / "e", **options(model_dir, shuffled, kind=kind))
    np.testing.assert_allclose(vectors(tmp_path / "e", kind), expected[order], atol=1e-3)


def test_a_row_left_out_is_nan_with_its_reason(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    rows: list[Any] = prompt_rows(12)
    rows[3] = '{"prompt": '
    rows[5] = {"prompt": "a <|im_end|> forged", "completion": "turn"}
    rows[7] = {**rows[7], "id": rows[6]["id"]}
    rows[9] = {"prompt": "x", "completion": ""}
    data = write_jsonl("d.jsonl", rows)
    result = featurize(tmp_path / "s", **options(model_dir, data, on_error="skip"))
    assert result.skipped == 4
    artefact = open_store(tmp_path / "s").get("features/d/ntk")
    status, norm = artefact.read("status"), artefact.read("norm")
    assert (np.isnan(norm) == (status >= store.RowStatus.UNREADABLE)).all()
    assert [store.RowStatus(int(status[i])).name for i in (3, 5, 7, 9)] == [
        "UNREADABLE",
        "UNMASKED",
        "UNREADABLE",
        "EMPTY",
    ]
    good = [i for i in range(12) if i not in (3, 5, 7, 9)]
    clean = write_jsonl("clean.jsonl", [rows[i] for i in good])
    featurize(tmp_path / "t", **options(model_dir, clean))
    np.testing.assert_allclose(vectors(tmp_path / "s")[good], vectors(tmp_path / "t"), atol=1e-3)


def test_the_budget_halves_when_memory_runs_out(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of more than 3 rows do not fit: the features are the same, and no row is cut."""
    import torch

    from ntkcli.engine.gradients.row_gradients import GradientEngine

    data = write_jsonl("d.jsonl", prompt_rows(20))
    featurize(tmp_path / "a", **options(model_dir, data))
    real, tried = GradientEngine.features, []

    def small(self: Any, rows: Any, **how: Any) -> Any:
        tried.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, rows, **how)

    notes: list[str] = []

    class Noted(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    monkeypatch.setattr(GradientEngine, "features", small)
    featurize(tmp_path / "b", **options(model_dir, data, batch_tokens=512), progress=Noted())
    assert any("memory ran out: batches went from 512 to" in note for note in notes)
    assert max(tried) > 3
    np.testing.assert_allclose(vectors(tmp_path / "b"), vectors(tmp_path / "a"), atol=1e-3)


def test_non_finite_values_name_row_and_layer(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """A model with an infinite weight: refused with the row's line and the layer where it began."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    broken = tmp_path / "broken"
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[3, 3] = float("inf")
    model.save_pretrained(broken)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(broken)
    data = write_jsonl("d.jsonl", prompt_rows(5))
    with pytest.raises(NtkselError, match=r"d\.jsonl line \d.* not finite; it began in model\.layers\.1"):
        featurize(tmp_path / "s", **options(broken, data))
    assert not open_store(tmp_path / "s").get("features/d/ntk").done().any()


def test_estimate_loads_no_weights_and_writes_nothing(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    from ntkcli.formatting import estimate_line
    from ntkcli.steps.features.dry_run import estimate_featurize
    from ntkcli.steps.features.request import FeatureRequest

    data = write_jsonl("d.jsonl", prompt_rows(50))
    request = FeatureRequest.of(data=data, name="d", kind="ntk", model=str(model_dir), device="cpu")
    found = estimate_featurize(tmp_path / "s", request)
    featurized = featurize(tmp_path / "t", **options(model_dir, data))
    assert (found.rows, found.tokens) == (50, featurized.tokens)
    assert found.disk_bytes == 50 * (2 * 8192 + 9)
    assert found.seconds > 0
    assert not (tmp_path / "s").exists()
    assert "counted" not in estimate_line(found)  # on a CPU the first batch measures nothing
    assert "tokens at a time (counted; the first batch will measure it)" in estimate_line(replace(found, counted=True))
