"""The device never waits for the host: nothing in a batch asks it for a value, and batches are read one behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ntkcli.data.encoding import Encoded
from ntkcli.engine.features import extract
from ntkcli.engine.features.embeddings import EmbeddingEngine
from ntkcli.engine.features.exact_scores import ExactScorer
from ntkcli.engine.features.extract import Extractor
from ntkcli.engine.features.row_losses import LossMeter
from ntkcli.engine.gradients import adam
from ntkcli.engine.gradients.probes import LossProbe
from ntkcli.engine.gradients.projections import make_projection
from ntkcli.engine.gradients.row_gradients import GradientEngine
from ntkcli.engine.memory import TokenBudget
from ntkcli.engine.transfers import Parcel
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.shared.stores import open_store
from tests.conftest import Writer, prompt_rows
from tests.engine import zoo
from tests.engine.kit import RANK, adapter_layers, load, make_engine, make_rows
from tests.engine.waits import NoWaiting

ROWS = make_rows([9, 7, 12])
CPU = torch.device("cpu")


def test_the_detector_sees_what_waits() -> None:
    numbers = torch.arange(4.0)
    for waiting in (
        lambda: float(numbers.sum()),
        lambda: bool((numbers > 1).any()),
        lambda: numbers[numbers > 1],
        lambda: torch.nonzero(numbers),
    ):
        with pytest.raises(AssertionError, match=r"waits for the device, at .*test_no_waiting.py"), NoWaiting():
            waiting()


@pytest.mark.parametrize("name", [*zoo.DENSE, *zoo.EXPERTS])
def test_gradients(name: str) -> None:
    loaded = load(name)
    targets = "q_proj,k_proj,v_proj,o_proj" if name in zoo.EXPERTS else "all-linear"
    engine = make_engine(loaded, adapter_layers(loaded.model, warm=True, target_modules=targets), probe="loss")
    with NoWaiting():
        engine.features(ROWS, positions="targets")


@pytest.mark.parametrize("probe", ["sum", "centred", "rademacher"])
@pytest.mark.parametrize("projection", ["sjlt", "rademacher", "none"])
@pytest.mark.parametrize("warm", [False, True])
def test_probes_and_projections(probe: str, projection: str, warm: bool) -> None:
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=warm)
    probes = 1 if probe == "sum" else 2
    engine = make_engine(loaded, layers, probe=probe, probes=probes, projection=projection)
    with NoWaiting():
        engine.features(ROWS, positions="completion")


def test_losses_and_adam_s_directions() -> None:
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    moments = {
        f"{layer.name}.{factor}": adam.FactorMoments(
            torch.ones(RANK, d), torch.ones(RANK, d), beta1=0.9, beta2=0.999, eps=1e-8
        )
        for layer in layers
        for factor, d in (("lora_A", layer.shape[1]), ("lora_B", layer.shape[0]))
    }
    meter = LossMeter(loaded, None)
    engine = GradientEngine(
        loaded,
        layers,
        projection=make_projection("sjlt", dim=64, seed=0, device=CPU),
        probes=[LossProbe(loaded.model)],
        moments=moments,
        watch=meter.watch,
    )
    with NoWaiting():
        engine.features(ROWS, positions="targets")
        meter.take(ROWS)


@pytest.mark.parametrize("pooling", ["mean", "weighted", "last"])
def test_embeddings(pooling: str) -> None:
    engine = EmbeddingEngine(load("llama"), pooling=pooling)
    with NoWaiting():
        engine.features(ROWS, positions="all")


def test_what_is_sent_is_found_without_waiting() -> None:
    """Which rows are not finite, and where that began, is found on the device."""
    unit, norm, layers = torch.ones(3, 4), torch.ones(3), torch.ones(3, 2)
    unit[1, 2], layers[1, 0], norm[2] = torch.nan, torch.inf, torch.inf
    made = extractor(lambda rows: (unit, norm, layers, None), layers=["low", "high"])
    with NoWaiting():
        sent = made._checked((unit, norm, layers, None))
    assert sent[2].tolist() == [0, 1, 3]
    found = made.vectors(make_rows([9, 9, 9]), on_batch=lambda *_: None)
    assert found.non_finite == {1: "low", 2: ""}


@pytest.mark.parametrize("kind", ["ntk", "loss"])
def test_exact_scores(kind: str) -> None:
    """Also whether a domain row is left out of the mean is found on the device."""
    settings = extract.GradientSettings(
        kind=kind, positions="completion", probe="sum", probes=1, projection="none", dim=1, seed=0, layers="all",
        rank=2, target_modules="all-linear", adapter_seed=0,
    )  # fmt: skip
    identity: Any = None
    scorer = ExactScorer(load("llama"), model=identity, adapter=None, settings=settings, batch_tokens=24)
    with NoWaiting():
        assert scorer.learn(ROWS) == []
        assert np.isfinite(scorer.score(ROWS)).all()


# The order of calls, with a device that only answers when it is asked to.


def extractor(compute: Callable[[Sequence[Encoded]], Any], *, budget: int = 100, layers: Sequence[str] = ()) -> Any:
    return Extractor(compute, dim=4, layer_names=layers, budget=TokenBudget(budget), device=CPU)


class LateParcel(Parcel):
    """Writes down when it is taken."""

    def __init__(self, log: list[str], number: int, results: Sequence[torch.Tensor]) -> None:
        super().__init__(results, [one.clone() for one in results], None)
        self.log, self.number = log, number

    def take(self) -> list[NDArray[Any]]:
        self.log.append(f"read {self.number}")
        return super().take()


class LateOutbox:
    """As of a device that is behind the host."""

    waits = True

    def __init__(self, log: list[str]) -> None:
        self.log, self.sent = log, 0

    def send(self, results: Sequence[torch.Tensor]) -> LateParcel:
        self.sent += 1
        self.log.append(f"sent {self.sent}")
        return LateParcel(self.log, self.sent, results)


def late(
    monkeypatch: pytest.MonkeyPatch, *, budget: int, bad: frozenset[int] = frozenset()
) -> tuple[Extractor, list[str]]:
    """An extractor on a late device: a row's vector is its first token; those of `bad` are not finite."""
    log: list[str] = []
    monkeypatch.setattr(extract, "Outbox", lambda device: LateOutbox(log))

    def compute(rows: Sequence[Encoded]) -> Any:
        first = torch.tensor([float(row.ids[0]) for row in rows])
        unit = torch.where(torch.tensor([int(row.ids[0]) in bad for row in rows]), torch.nan, first)[:, None]
        return unit.expand(-1, 4), first, None, None

    return extractor(compute, budget=budget), log


def numbered(lengths: Sequence[int], first: int) -> list[Encoded]:
    rows = make_rows(list(lengths))
    for i, row in enumerate(rows):
        row.ids[0] = first + i
    return rows


def test_a_batch_is_read_after_the_next_was_sent_also_between_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made, log = late(monkeypatch, budget=20)
    one, two = numbered([10] * 4, 0), numbered([10] * 4, 10)
    first = made.begin(one, on_batch=lambda *_: None)
    assert log == ["sent 1", "sent 2", "read 1"]
    second = made.begin(two, on_batch=lambda *_: None)
    assert log[3:] == ["sent 3", "read 2", "sent 4", "read 3"]
    assert (first.left, second.left) == (0, 1)
    assert made.finish(first).norm.tolist() == [0, 1, 2, 3]
    assert made.finish(second).norm.tolist() == [10, 11, 12, 13]
    assert log[7:] == ["read 4"]


def test_of_small_batches_as_many_are_in_flight_as_make_a_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made, log = late(monkeypatch, budget=30)
    parts = [made.begin(numbered([10], n), on_batch=lambda *_: None) for n in range(6)]
    assert log == ["sent 1", "sent 2", "sent 3", "sent 4", "read 1", "sent 5", "read 2", "sent 6", "read 3"]
    assert [part.left for part in parts] == [0, 0, 0, 1, 1, 1]
    assert [made.finish(part).norm.tolist() for part in parts] == [[n] for n in range(6)]


def test_no_more_than_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = late(monkeypatch, budget=10_000)
    parts = [made.begin(numbered([3], n), on_batch=lambda *_: None) for n in range(12)]
    assert sum(part.left for part in parts) == 8


def test_a_row_that_is_not_finite_is_named_a_batch_later(monkeypatch: pytest.MonkeyPatch) -> None:
    made, log = late(monkeypatch, budget=20, bad=frozenset({2, 11}))
    first = made.begin(numbered([10] * 4, 0), on_batch=lambda *_: None)
    second = made.begin(numbered([10] * 4, 10), on_batch=lambda *_: None)
    assert made.finish(first).non_finite == {2: ""}
    assert made.finish(second).non_finite == {1: ""}
    assert log.count("read 5") == 0  # no row was padded, so none is computed alone


def test_a_padded_row_that_is_not_finite_is_computed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made, log = late(monkeypatch, budget=40, bad=frozenset({1}))
    found = made.vectors(numbered([10, 9], 0), on_batch=lambda *_: None)
    assert log == ["sent 1", "read 1", "sent 2", "read 2"]
    assert found.non_finite == {1: ""}


def test_on_a_cpu_every_batch_is_read_at_once() -> None:
    made = extractor(lambda rows: (torch.ones(len(rows), 4), torch.ones(len(rows)), None, None), budget=20)
    begun = made.begin(numbered([10] * 4, 0), on_batch=lambda *_: None)
    assert begun.left == 0


def test_parts_follow_each_other_without_draining_the_queue(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of a late device is that of a prompt one, and the next part is begun before a part is read."""
    data = write_jsonl("d.jsonl", prompt_rows(14))
    settings: Any = {"data": data, "name": "d", "kind": "ntk", "model": str(model_dir), "dim": 64, "part_rows": 2}
    prompt = featurize(tmp_path / "s", **settings, batch_tokens=100)
    log: list[str] = []
    monkeypatch.setattr(extract, "Outbox", lambda device: LateOutbox(log))
    assert featurize(tmp_path / "t", **settings, batch_tokens=100).digest == prompt.digest
    assert open_store(tmp_path / "t").get("features/d/ntk").complete
    sent = sum(line.startswith("sent") for line in log)
    first_reads = [log.index(f"read {k}") - log.index(f"sent {k + 1}") for k in range(1, sent)]
    assert sent >= 7
    assert min(first_reads) > 0
