"""Likelihoods of choices against one plain forward of the whole model a choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from ntkcli.data.encoding import Encoded
from ntkcli.engine.evaluation.loglikelihood import _packs_well, choice_logliks, shares_prefixes
from ntkcli.engine.memory import TokenBudget
from ntkcli.engine.models.loading import LoadedModel
from tests.engine import zoo
from tests.engine.kit import load


def item(prompt: int, choices: Sequence[int], seed: int, *, end: int = 0) -> list[Encoded]:
    """One prompt, choices of these many tokens, and `end` more that close a turn and are not supervised."""
    draw = np.random.default_rng(seed)
    first = draw.integers(3, 97, prompt)
    rows = []
    for length in choices:
        ids = np.concatenate([first, draw.integers(3, 97, length + end)]).astype(np.int32)
        at = np.arange(len(ids))
        rows.append(Encoded(ids, (at >= prompt) & (at < prompt + length), truncated=False))
    return rows


ITEMS = [
    item(5, [1, 3, 2], 0),
    item(9, [4, 4], 1, end=2),
    item(2, [1, 1, 1, 6], 2),
    item(7, [2], 3, end=1),
    item(6, [1, 1], 4, end=1),
]


APART = {
    *("mistral_window", "gemma2_softcap", "gemma2_no_cap", "gemma3_text", "gemma3_text_softcap", "gemma3_images"),
    *("cohere2_scaled", "recurrent_gemma_softcap", "gpt_oss"),  # windows, recurrent layers
    *("bloom", "mpt_alibi", "falcon_alibi", "llama_eager"),  # ALiBi, and eager attention, which adds masks up
}
"""Models that don't take a mask and positions of our own; all others of the zoo do."""


def load_either(name: str) -> LoadedModel:
    loaded = load(name.removesuffix("_eager"))
    if name.endswith("_eager"):
        loaded.model.set_attn_implementation("eager")
    return loaded


@pytest.mark.parametrize("name", [*zoo.DENSE, *zoo.EXPERTS, *zoo.MORE, "llama_eager"])
def test_every_architecture_equals_its_plain_forwards(name: str) -> None:
    loaded = load_either(name)
    assert shares_prefixes(loaded) is (name not in APART)
    assert_plain(loaded, 64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sharing_is_told_in_16_bits_too(dtype: torch.dtype) -> None:
    for name in ("llama", "olmo2", "gpt2_conv1d", "llama_eager", "mpt_alibi", "bloom"):
        loaded = load_either(name)
        half = LoadedModel(loaded.model.to(dtype), loaded.tokenizer, loaded.device, dtype)
        assert shares_prefixes(half) is (name not in APART), name


def test_a_window_longer_than_any_small_item_does_not_share() -> None:
    loaded = load("mistral_window")
    loaded.model.config.sliding_window = 4096
    assert _packs_well(loaded), "else this tests nothing"
    assert not shares_prefixes(loaded)


@pytest.mark.parametrize("budget", [1, 4096])
def test_equal_to_plain_forwards_for_any_batch(budget: int) -> None:
    assert_plain(load("qwen3"), budget)


def assert_plain(loaded: LoadedModel, budget: int) -> None:
    """The likelihoods and what is greedy, against a forward of the whole model for each choice."""
    planned = TokenBudget(budget)
    found = choice_logliks(loaded, ITEMS, budget=planned)
    assert planned.tokens == budget
    for choices, values, greedy in zip(ITEMS, found.sums, found.greedy, strict=True):
        for row, value, best in zip(choices, values, greedy, strict=True):
            with torch.no_grad():
                logits = loaded.model(input_ids=torch.tensor(row.ids[None].astype(np.int64))).logits[0]
            log_p = torch.log_softmax(logits.double(), dim=-1)
            where = np.flatnonzero(row.supervised)
            expected = sum(float(log_p[t - 1, int(row.ids[t])]) for t in where)
            assert value == pytest.approx(expected, abs=1e-4)
            assert best == all(int(log_p[t - 1].argmax()) == int(row.ids[t]) for t in where)


def test_choices_cut_at_different_places_do_not_share() -> None:
    """Truncation may leave choices of one item with other prompts: each is then a sequence of its own."""
    rows = [item(6, [2], 0)[0], item(5, [2], 9)[0]]
    loaded = load("llama")
    together = choice_logliks(loaded, [rows], budget=TokenBudget(4096)).sums[0]
    alone = [choice_logliks(loaded, [[row]], budget=TokenBudget(4096)).sums[0][0] for row in rows]
    np.testing.assert_allclose(together, alone, atol=1e-5)
