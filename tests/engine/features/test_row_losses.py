"""Losses and residuals of rows against the whole model's logits, one row at a time; and without the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.data.encoding import Encoded
from ntkcli.engine.features import row_losses
from ntkcli.engine.features.extract import Extractor, GradientSettings, embedding_extractor, gradient_extractor
from ntkcli.engine.features.row_losses import LossMeter
from ntkcli.engine.gradients.row_gradients import GradientEngine
from ntkcli.engine.models.loading import load_model
from ntkcli.errors import UsageError
from ntkcli.identity import AdapterIdentity, ModelIdentity
from tests.engine.kit import adapter_layers, load, make_engine, make_rows
from tests.engine.models.test_half_precision import base, make_adapter
from tests.engine.models.test_peft_variants import Shelf, shelf

__all__ = ["base", "shelf"]
pytestmark = pytest.mark.filterwarnings("ignore")  # peft's, of what a variant can't do
COVERED = [
    ("plain", "loss"),
    ("rank_pattern", "ntk"),
    ("lora_bias", "ntk"),
    ("lora_bias", "embed"),
    ("dora", "embed"),
    ("head", "embed"),
]
REFUSED = [
    ("pissa", "ntk"),
    ("bias_all", "embed"),
    ("both_whole", "ntk"),
    ("some_tokens", "embed"),
    ("repeated_blocks", "ntk"),
    ("ia3", "embed"),
]


def plain_losses(model: Any, rows: list[Encoded]) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy and mean length of p - y over each row's supervised tokens, in float64, row by row."""
    losses, residuals = [], []
    for row in rows:
        ids = torch.tensor(row.ids.astype(np.int64))
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0].double()
        answer = np.flatnonzero(row.supervised[1:])
        p = torch.softmax(logits[answer], dim=-1).numpy()
        wanted = np.eye(p.shape[1])[row.ids[answer + 1]]
        losses.append(-np.log((p * wanted).sum(axis=1)).mean())
        residuals.append(np.linalg.norm(p - wanted, axis=1).mean())
    return np.array(losses), np.array(residuals)


def extractor(kind: str, model: ModelIdentity, adapter: AdapterIdentity | None, **changes: Any) -> Extractor:
    loaded = load_model(model, dtype=changes.get("dtype", "float32"), device="cpu")
    common: dict[str, Any] = {
        "model": model,
        "adapter": adapter,
        "batch_tokens": changes.get("batch_tokens", 30),
        "losses": changes.get("losses", True),
    }
    positions = changes.get("positions", "completion")
    if kind == "embed":
        return embedding_extractor(loaded, positions=positions, pooling="mean", **common)
    settings = GradientSettings(
        kind=kind, positions=positions, probe="sum", probes=1, projection="sjlt", dim=64, seed=0,
        layers=changes.get("layers", "all"), rank=2, target_modules="all-linear", adapter_seed=0,
    )  # fmt: skip
    return gradient_extractor(loaded, settings=settings, **common)


def measured(made: Extractor, rows: list[Encoded]) -> Any:
    return made.vectors(rows, on_batch=lambda *_: None)


@pytest.mark.parametrize("name", ["llama", "gemma2_softcap", "gpt2_conv1d"])
def test_losses_are_the_model_s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hidden states of the features' forward, all logits at once or token by token."""
    rows = make_rows([5, 12, 3, 9])
    loss, residual = plain_losses(load(name).model, rows)
    for logit_bytes in (1, 256 << 20):
        monkeypatch.setattr(row_losses, "LOGIT_BYTES", logit_bytes)
        loaded = load(name)
        meter = LossMeter(loaded, None)
        engine = make_engine(loaded, adapter_layers(loaded.model, warm=False))
        watched = GradientEngine(
            loaded, adapter_layers(loaded.model, warm=False), projection=engine._projection, probes=engine._probes,
            watch=meter.watch,
        )  # fmt: skip
        watched.features(rows, positions="all")
        found = meter.take(rows).numpy()
        np.testing.assert_allclose(found[:, 0], loss, rtol=1e-5)
        np.testing.assert_allclose(found[:, 1], residual, rtol=1e-5)


@pytest.mark.parametrize(("name", "kind"), COVERED)
def test_before_is_the_model_without_the_adapter(shelf: Shelf, name: str, kind: str) -> None:
    """Of peft's own model, with the adapter and with none; vectors are the same bytes as without losses."""
    model, adapter, rows = shelf.models[False], shelf.adapter(name, tied=False), make_rows([5, 12, 3, 9, 14])
    found = measured(extractor(kind, model, adapter), rows)
    loss, residual = plain_losses(shelf.peft_model(name, tied=False), rows)
    before, _ = plain_losses(load_model(model, dtype="float32", device="cpu").model, rows)
    assert np.abs(before - loss).max() > 0.05
    np.testing.assert_allclose(found.losses["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(found.losses["residual"], residual, rtol=1e-5)
    np.testing.assert_allclose(found.losses["loss_before"], before, rtol=1e-5)
    plain = measured(extractor(kind, model, adapter, losses=False), rows)
    assert plain.losses == {}
    assert plain.unit.tobytes() == found.unit.tobytes()
    assert plain.norm.tobytes() == found.norm.tobytes()


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_what_else_an_adapter_changes_is_refused(shelf: Shelf, name: str, kind: str) -> None:
    """Its loss "without the adapter" would be of a model that nobody has."""
    with pytest.raises(UsageError, match=r"--losses: the adapter .* changes .*plain LoRA adapter"):
        extractor(kind, shelf.models[False], shelf.adapter(name, tied=False))


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "ntk"), ("bfloat16", "ntk"), ("bfloat16", "embed")])
def test_half_precision_and_some_layers(base: ModelIdentity, dtype: str, kind: str, tmp_path: Path) -> None:
    """Updates beside the weights are left out, not subtracted; layers that --layers leaves out are switched off too."""
    adapter, rows = make_adapter(base, tmp_path, size=0.5), make_rows([20, 40, 7])
    found = measured(extractor(kind, base, adapter, dtype=dtype, layers="last:1", batch_tokens=64), rows)
    expected = measured(extractor(kind, base, None, dtype=dtype, batch_tokens=64), rows)
    assert "loss_before" not in expected.losses
    np.testing.assert_allclose(
        found.losses["loss_before"], expected.losses["loss"], rtol=1e-5 if dtype == "float32" else 1e-6
    )
    assert np.abs(found.losses["loss"] - expected.losses["loss"]).max() > 1e-3


@pytest.mark.parametrize("positions", ["all", "last"])
def test_losses_do_not_depend_on_batches_or_positions(shelf: Shelf, positions: str) -> None:
    model, adapter, rows = shelf.models[True], shelf.adapter("plain", tied=True), make_rows([5, 12, 3, 9, 14])
    alone = measured(extractor("ntk", model, adapter, batch_tokens=1), rows)
    together = measured(extractor("ntk", model, adapter, batch_tokens=1000, positions=positions), rows)
    for name, values in alone.losses.items():
        np.testing.assert_allclose(together.losses[name], values, rtol=1e-5)
