"""Features that keep losses: the same vectors, one spec field more, the arrays in each part, resumed and skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.steps.features.dry_run import estimate_featurize
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.features.request import FeatureRequest
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune
from tests.conftest import Writer, prompt_rows


def test_losses_are_kept_beside_the_same_vectors(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    rows: list[Any] = prompt_rows(20)
    rows[3] = '{"prompt": '
    data = write_jsonl("d.jsonl", rows)
    path = tmp_path / "s"
    finetune(
        path,
        model=str(model_dir),
        train=[str(write_jsonl("t.jsonl", prompt_rows(6)))],
        name="w",
        rank=2,
        epochs=6,
        lr=1e-2,
        batch_size=2,
    )
    common: dict[str, Any] = {
        "data": data, "name": "d", "kind": "ntk", "model": str(model_dir), "dim": 64, "part_rows": 8,
        "batch_tokens": 256, "on_error": "skip", "adapter": "w",
    }  # fmt: skip
    featurize(path, **common)
    featurize(path, **common, feature="kept", losses=True)
    for shard in ((2, 3), (0, 3), (1, 3)):
        featurize(path, **common, feature="sharded", losses=True, shard=shard)
    featurize(path, **common | {"adapter": None}, feature="fresh", losses=True)
    stored = open_store(path)
    plain, kept, sharded, fresh = (stored.get(f"features/d/{name}") for name in ("ntk", "kept", "sharded", "fresh"))
    assert {**plain.spec, "losses": 1} == kept.spec
    assert sharded.digest() == kept.digest()
    assert kept.arrays.keys() - plain.arrays.keys() == {"loss", "loss_before", "residual"}
    assert fresh.arrays.keys() - plain.arrays.keys() == {"loss", "residual"}
    for name in plain.arrays:
        assert plain.read(name).tobytes() == kept.read(name).tobytes(), name
    for name in ("loss", "loss_before", "residual"):
        values = kept.read(name)
        assert values.dtype == np.float32
        assert np.flatnonzero(np.isnan(values)).tolist() == [3]
    # Without an adapter the model is the one before the warm-up.
    np.testing.assert_allclose(fresh.read("loss"), kept.read("loss_before"), rtol=1e-5)
    assert np.nanmax(np.abs(kept.read("loss") - kept.read("loss_before"))) > 1e-4
    # A finished command with another wish is another artefact's.
    again = featurize(path, **common, feature="kept", losses=True)
    assert (again.computed, again.digest) == (0, kept.digest())


def test_the_estimate_counts_the_forward_without_the_adapter(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ntkcli.engine.models.speed.operations_per_second", lambda _: 1e9)
    data = write_jsonl("d.jsonl", prompt_rows(30))

    def estimated(**changes: Any) -> Any:
        request = FeatureRequest.of(data=data, name="d", kind="embed", model=str(model_dir), dim=64, **changes)
        return estimate_featurize(tmp_path / "s", request)

    plain, fresh, adapted = estimated(), estimated(losses=True), estimated(losses=True, adapter="w")
    assert fresh.disk_bytes - plain.disk_bytes == 30 * 8
    assert adapted.disk_bytes - plain.disk_bytes == 30 * 12
    assert fresh.seconds == plain.seconds
    assert adapted.seconds == pytest.approx(2 * plain.seconds)
