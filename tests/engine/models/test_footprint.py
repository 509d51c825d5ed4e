"""What a batch holds, counted against what autograd keeps; and how many tokens that makes of a CUDA device's memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkcli.engine import memory
from ntkcli.engine.batches import plan_batches
from ntkcli.engine.memory import Footprint, TokenBudget, free_bytes, measured_tokens
from ntkcli.engine.models import footprint
from ntkcli.engine.models.loading import LoadedModel, decoder_of, model_config
from ntkcli.engine.training.loss import like_lengths
from ntkcli.engine.training.size import pick_batch_tokens, training_size
from ntkcli.identity import resolve_model
from tests.engine.kit import adapter_layers, load, make_engine, make_rows

GPU = torch.device("cuda:0")
GIB = 1 << 30


class Card:
    """A card of `total` bytes, of which torch has taken `reserved` and uses `used`; others use nothing."""

    def __init__(self, total: int, *, reserved: int = 0, used: int = 0) -> None:
        self.total, self.reserved, self.used, self.peak, self.emptied = total, reserved, used, used, 0

    def hold(self, size: int) -> None:
        """Take so much for a moment."""
        if self.used + size > self.total:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.peak = max(self.peak, self.used + size)
        self.reserved = max(self.reserved, self.used + size)

    def empty(self) -> None:
        self.emptied, self.reserved = self.emptied + 1, self.used

    def reset(self) -> None:
        self.peak = self.used


def stand_in(monkeypatch: pytest.MonkeyPatch, card: Card) -> Card:
    for name, value in {
        "mem_get_info": lambda *_: (card.total - card.reserved, card.total),
        "memory_reserved": lambda *_: card.reserved,
        "memory_allocated": lambda *_: card.used,
        "max_memory_allocated": lambda *_: card.peak,
        "reset_peak_memory_stats": lambda *_: card.reset(),
        "synchronize": lambda *_: None,
        "empty_cache": card.empty,
        "device_count": lambda: 1,
        "is_bf16_supported": lambda **_: True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return card


def test_what_torch_keeps_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Card(80 * GIB, reserved=50 * GIB, used=16 * GIB))
    assert free_bytes(GPU) == 64 * GIB


@given(
    st.lists(st.integers(1, 600), min_size=1, max_size=60),
    st.integers(0, 5000),
    st.integers(0, 3),
    st.integers(200, 4000),
)
def test_no_batch_holds_more_than_its_budget(lengths: list[int], row: int, square: int, tokens: int) -> None:
    held = Footprint(token=7, row=row, square=square)
    budget = TokenBudget(tokens, held)
    batches = plan_batches(lengths, tokens, held=budget.held)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for where in batches:
        longest = max(lengths[i] for i in where)
        exact = len(where) * (7 * longest + row + square * longest**2)
        assert len(where) == 1 or exact <= 7 * tokens
    for group, longest in like_lengths(torch.tensor(lengths), tokens, held=budget.row):
        assert len(group) == 1 or len(group) * (7 * longest + row + square * longest**2) <= 7 * tokens


def test_halving_counts_what_rows_hold() -> None:
    sizes: list[int] = []

    def compute(where: Any) -> None:
        sizes.append(len(where))
        if len(where) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    budget = TokenBudget(32 * 110, Footprint(token=1, row=100))
    memory.run_batches([10] * 32, budget, compute)
    assert sizes[:4] == [32, 16, 8, 4]
    assert budget.tokens == 4 * 110


@pytest.mark.parametrize("square", [0, 5])
def test_a_trial_batch_settles_the_budget(monkeypatch: pytest.MonkeyPatch, square: int) -> None:
    """A token holds 50,000 bytes, whatever was counted."""
    card = stand_in(monkeypatch, Card(2 * GIB, used=GIB))
    budget = TokenBudget(9_000, Footprint(token=20_000))

    def run(tokens: int) -> int:
        card.hold(50_000 * tokens)
        return tokens

    found = measured_tokens(budget, GPU, run)
    assert found == int(memory.MEASURED_SHARE * GIB / 50_000)
    card.hold(50_000 * found)  # fits


def test_a_trial_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    card = stand_in(monkeypatch, Card(GIB))
    tried: list[int] = []

    def run(tokens: int) -> int:
        tried.append(tokens)
        card.hold(600_000 * tokens)
        return tokens

    found = measured_tokens(TokenBudget(60_000), GPU, run)
    assert tried == [4096, 2048, 1024]
    assert card.emptied == 2
    assert found == max(1024, int(memory.MEASURED_SHARE * GIB / 600_000))

    def never(tokens: int) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert measured_tokens(TokenBudget(60_000), GPU, never) == 60_000  # the first batch will tell


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_activations_are_about_what_a_backward_keeps(name: str) -> None:
    loaded = load(name)
    layers = adapter_layers(loaded.model, warm=True)
    engine = make_engine(loaded, layers)
    rows = make_rows([120] * 8)
    seen: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if not any(x.data_ptr() == p.data_ptr() for p in loaded.model.parameters()):
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        engine.features(rows, positions="completion")
    counted = footprint.feature_footprint(loaded.model.config, torch.float32, factors=(), dim=0).token * 8 * 120
    assert 0.4 < sum(seen.values()) / counted < 1.6


def test_a_dry_run_tells_the_budget_of_the_run(monkeypatch: pytest.MonkeyPatch, model_dir: Any) -> None:
    """Counted before the weights are loaded, and after, on a card that then holds them."""
    identity = resolve_model(str(model_dir))
    card = stand_in(monkeypatch, Card(3 * GIB + (100 << 20)))
    how: dict[str, Any] = {"rank": 8, "target_modules": "all-linear", "init": None, "checkpointed": False}
    monkeypatch.setattr(footprint, "CUDA_SHARE", 1e-3)  # that a tiny model's budget is not the most there is
    before = training_size(identity, dtype="bfloat16", device="cuda:0", **how).batch_tokens
    features = footprint.planned_tokens(
        identity, backward=True, dtype="auto", device="cuda:0", weights=(weights := 10**6)
    )
    assert features < memory.MOST_TOKENS > before > 512

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(model_config(identity))
    card.used = card.reserved = sum(p.numel() for p in model.parameters()) * 2
    loaded = LoadedModel(model, None, GPU, torch.bfloat16)
    assert pick_batch_tokens(loaded, **how) == before
    assert decoder_of(model) is not None
    card.used = card.reserved = weights * 2
    counted = footprint.feature_footprint(model.config, torch.bfloat16, factors=[(8, 32, 48)], dim=64)
    assert footprint.counted_tokens(counted, GPU) == features
