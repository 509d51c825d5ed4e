"""float16 gradients are computed larger than they are, so that none of their digits are lost; nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ntkcli.engine.features.extract import GradientSettings, make_probes
from ntkcli.engine.gradients.adam import load_moments
from ntkcli.engine.gradients.probes import FLOAT16_TIMES, AnyProbe, LogitProbe, LossProbe, ScaledProbe, with_room
from ntkcli.engine.gradients.projections import make_projection
from ntkcli.engine.gradients.row_gradients import Features, GradientEngine
from ntkcli.engine.models.loading import LoadedModel
from ntkcli.steps.features.settings import FLOAT16_VERSION, VERSION, feature_version
from tests.engine.kit import DIM, SEED, adapter_layers, load, make_rows, save_moments

ROWS = make_rows([5, 40, 17, 3])


def features(
    loaded: LoadedModel, probes: Sequence[AnyProbe], *, adam: Path | None = None, warm: bool = True
) -> Features:
    layers = adapter_layers(loaded.model, warm=warm)
    made = make_projection("sjlt", dim=DIM, seed=SEED, device=loaded.device)
    moments = None if adam is None else load_moments(save_moments(layers, adam)[1], layers, loaded.device)
    engine = GradientEngine(loaded, layers, projection=made, probes=probes, seed=SEED, moments=moments)
    return engine.features(ROWS, positions="completion")


@pytest.mark.parametrize(("kind", "adam"), [("sum", False), ("loss", False), ("loss", True)])
def test_a_power_of_two_changes_no_bit_where_there_is_room(kind: str, adam: bool, tmp_path: Path) -> None:
    def probe(loaded: LoadedModel) -> AnyProbe:
        return LossProbe(loaded.model) if kind == "loss" else LogitProbe(loaded.model, kind)

    plain, other = load("llama"), load("llama")
    folder = tmp_path if adam else None
    expected = features(plain, [probe(plain)], adam=folder)
    found = features(other, [ScaledProbe(probe(other), FLOAT16_TIMES)], adam=folder)
    assert torch.equal(found.sketch, expected.sketch)
    assert torch.equal(found.norm, expected.norm)
    assert torch.equal(found.layer_norms, expected.layer_norms)


def test_small_gradients_keep_their_digits() -> None:
    """As small as those of long answers of large models are."""
    exact = load("llama", torch.float16)
    exact = LoadedModel(exact.model.float(), exact.tokenizer, exact.device, torch.float32)
    true = features(exact, [LogitProbe(exact.model, "sum")], warm=False)

    def wrong(times: float, *, room: bool) -> float:
        loaded = load("llama", torch.float16)
        probe: AnyProbe = ScaledProbe(LogitProbe(loaded.model, "sum"), times)
        found = features(loaded, [with_room(probe, torch.float16) if room else probe], warm=False)
        return float((found.sketch - true.sketch).norm() / true.sketch.norm())

    large, small = wrong(1.0, room=False), wrong(2.0**-13, room=False)
    assert small > 3 * large  # digits are lost there
    assert wrong(2.0**-13 * 32, room=True) < 1.2 * large


@pytest.mark.parametrize("kind", ["ntk", "loss"])
def test_only_float16_is_scaled(kind: str) -> None:
    settings = GradientSettings(kind, "completion", "sum", 1, "sjlt", DIM, SEED, "all", 3, "all-linear", 0)
    plain = make_probes(load("llama"), settings)[0].scale
    assert make_probes(load("llama", torch.bfloat16), settings)[0].scale == pytest.approx(plain, rel=1e-2)
    half = make_probes(load("llama", torch.float16), settings)[0].scale
    assert half * FLOAT16_TIMES == pytest.approx(plain, rel=1e-2)
    assert np.log2(FLOAT16_TIMES) % 1 == 0


def test_the_version_tells_them_apart() -> None:
    plain = feature_version(adapted=False, layers="all", half=False)
    assert (plain, feature_version(adapted=False, layers="all", half=True)) == (VERSION, FLOAT16_VERSION)
