"""Features on the card: they are the CPU's, nothing in the loop waits, and full memory halves the batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.engine.features.embeddings import EmbeddingEngine
from ntkcli.engine.features.exact_scores import ExactScorer
from ntkcli.engine.features.extract import Extractor, GradientSettings, gradient_extractor
from ntkcli.engine.features.row_losses import LossMeter
from ntkcli.engine.models.loading import LoadedModel
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.shared.stores import open_store
from tests.conftest import Writer, prompt_rows
from tests.engine import zoo
from tests.engine.kit import adapter_layers, load, make_engine, make_rows

ROWS = make_rows([9, 7, 12, 12, 30, 5, 8, 21] * 4)


def on(device: torch.device, name: str = "llama", dtype: torch.dtype = torch.float32) -> LoadedModel:
    loaded = load(name, dtype)
    loaded.model.to(device)
    return replace(loaded, device=device)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within, whatever makes the host wait for the device is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def settings(**changes: Any) -> GradientSettings:
    given = {
        "kind": "ntk", "positions": "completion", "probe": "sum", "probes": 1, "projection": "sjlt", "dim": 256,
        "seed": 0, "layers": "all", "rank": 4, "target_modules": "all-linear", "adapter_seed": 0,
    }  # fmt: skip
    return GradientSettings(**given | changes)


def extractor(device: torch.device, name: str = "llama", *, losses: bool = False, **changes: Any) -> Extractor:
    identity: Any = None
    return gradient_extractor(
        on(device, name), model=identity, adapter=None, settings=settings(**changes), batch_tokens=100, losses=losses
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"probe": "centred", "probes": 3},
        {"kind": "loss", "losses": True},
        {"projection": "none", "target_modules": "q_proj"},
        {"projection": "rademacher"},
    ],
)
def test_nothing_in_the_loop_waits(device: torch.device, changes: dict[str, Any]) -> None:
    made = extractor(device, **changes)
    first = made.vectors(ROWS, on_batch=lambda *_: None)  # kernels are compiled, memory is taken
    with no_waiting():
        begun = [made.begin(ROWS, on_batch=lambda *_: None) for _ in range(3)]
        again = [made.finish(one) for one in begun]
    for one in again:
        np.testing.assert_allclose(one.unit, first.unit, atol=1e-5)


@pytest.mark.parametrize("name", sorted(zoo.DENSE))
def test_no_model_waits(device: torch.device, name: str) -> None:
    loaded = on(device, name)
    engine = make_engine(loaded, adapter_layers_on(loaded, warm=False), probe="loss")
    engine.features(ROWS, positions="targets")
    with no_waiting():
        engine.features(ROWS, positions="targets")


def test_embeddings_and_losses_do_not_wait(device: torch.device) -> None:
    loaded = on(device)
    meter = LossMeter(loaded, None)
    engine = EmbeddingEngine(loaded, pooling="weighted", watch=meter.watch)
    for guard in (no_guard, no_waiting):
        with guard():
            engine.features(ROWS, positions="all")
            meter.take(ROWS)


def test_exact_scores_do_not_wait(device: torch.device) -> None:
    identity: Any = None
    scorer = ExactScorer(on(device), model=identity, adapter=None, settings=settings(), batch_tokens=100)
    scorer.learn(ROWS[:9])
    expected = scorer.score(ROWS)
    with no_waiting():
        found = scorer.score(ROWS)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@contextmanager
def no_guard() -> Iterator[None]:
    yield


def adapter_layers_on(loaded: LoadedModel, *, warm: bool) -> list[Any]:
    """The same adapter on any device."""
    device = loaded.device
    loaded.model.to("cpu")
    layers = adapter_layers(loaded.model, warm=warm)
    loaded.model.to(device)
    return [
        type(one)(one.name, one.module, one.a.to(device), None if one.b is None else one.b.to(device), one.scale)
        for one in layers
    ]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("probe", ["sum", "centred", "loss"])
def test_features_are_those_of_a_cpu(device: torch.device, probe: str, warm: bool) -> None:
    positions = "targets" if probe == "loss" else "completion"
    found = []
    for place in (torch.device("cpu"), device):
        loaded = on(place)
        engine = make_engine(loaded, adapter_layers_on(loaded, warm=warm), probe=probe)
        found.append(engine.features(ROWS, positions=positions))
    np.testing.assert_allclose(found[1].norm.cpu(), found[0].norm, rtol=1e-3)
    np.testing.assert_allclose(found[1].sketch.cpu(), found[0].sketch, atol=1e-4)


def test_bfloat16_is_near_float32(device: torch.device) -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        loaded = on(device, dtype=dtype)
        engine = make_engine(loaded, adapter_layers_on(loaded, warm=False))
        found.append(engine.features(ROWS, positions="completion").sketch)
    cosines = torch.nn.functional.cosine_similarity(found[0], found[1], dim=1)
    assert float(cosines.min()) > 0.98


def test_a_row_that_is_not_finite_is_named(device: torch.device) -> None:
    made = extractor(device)
    compute: Callable[..., Any] = made._compute

    def broken(rows: Any) -> Any:
        unit, norm, layers, losses = compute(rows)
        bad = torch.tensor([len(row) == 30 for row in rows]).to(device)
        low = torch.arange(layers.shape[1], device=device) < 3
        layers = torch.where(bad[:, None] & low, torch.nan, layers)
        return unit, torch.where(bad, torch.nan, norm), layers, losses

    made._compute = broken
    found = made.vectors(ROWS, on_batch=lambda *_: None)
    assert set(found.non_finite) == {i for i, row in enumerate(ROWS) if len(row) == 30}
    assert set(found.non_finite.values()) == {made._layer_names[2]}


def test_full_memory_halves_the_batches(device: torch.device) -> None:
    identity: Any = None
    rows = make_rows([200] * 256)
    made = gradient_extractor(on(device), model=identity, adapter=None, settings=settings(), batch_tokens=100_000)
    expected = made.vectors(rows[:8], on_batch=lambda *_: None).unit
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total, device)
    try:
        found = made.vectors(rows, on_batch=lambda *_: None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert made.budget.tokens < 51_200
    np.testing.assert_allclose(found.unit[:8], expected, atol=1e-4)


def test_featurize_of_both_devices(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """The whole command: parts in flight, resumed, the same vectors to rounding, twice the same on the card."""
    given: dict[str, Any] = {
        "data": write_jsonl("d.jsonl", prompt_rows(40)), "name": "d", "kind": "ntk", "model": str(model_dir),
        "dim": 128, "part_rows": 4, "store_dtype": "float32", "dtype": "float32",
    }  # fmt: skip
    sketches = []
    for store_name, place in (("cpu", "cpu"), ("one", "cuda:0"), ("two", "cuda:0")):
        featurize(tmp_path / store_name, **given, device=place)
        sketches.append(open_store(tmp_path / store_name).get("features/d/ntk").read("sketch"))
    np.testing.assert_allclose(sketches[1], sketches[0], atol=1e-4)
    np.testing.assert_allclose(sketches[2], sketches[1], atol=1e-6)
