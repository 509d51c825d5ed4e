"""Likelihoods of choices against one plain forward of the whole model a choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from ntkcli.data.encoding import Encoded
from ntkcli.engine.evaluation.loglikelihood import choice_logliks, shares_prefixes
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


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2_softcap", "gpt2_conv1d"])
@pytest.mark.parametrize("budget", [1, 64, 4096])
def test_equal_to_plain_forwards(name: str, budget: int) -> None:
    loaded = load(name)
    found = choice_logliks(loaded, ITEMS, budget_tokens=budget)
    assert found.budget_tokens == budget
    for choices, values, greedy in zip(ITEMS, found.sums, found.greedy, strict=True):
        for row, value, best in zip(choices, values, greedy, strict=True):
            with torch.no_grad():
                logits = loaded.model(input_ids=torch.tensor(row.ids[None].astype(np.int64))).logits[0]
            log_p = torch.log_softmax(logits.double(), dim=-1)
            where = np.flatnonzero(row.supervised)
            expected = sum(float(log_p[t - 1, int(row.ids[t])]) for t in where)
            assert value == pytest.approx(expected, abs=1e-4)
            assert best == all(int(log_p[t - 1].argmax()) == int(row.ids[t]) for t in where)


def test_which_models_share_prefixes() -> None:
    assert shares_prefixes(load("llama").model)
    assert not shares_prefixes(load("gemma2_softcap").model)


def test_choices_cut_at_different_places_do_not_share() -> None:
    """Truncation may leave choices of one item with other prompts: each is then a sequence of its own."""
    rows = [item(6, [2], 0)[0], item(5, [2], 9)[0]]
    loaded = load("llama")
    together = choice_logliks(loaded, [rows], budget_tokens=4096).sums[0]
    alone = [choice_logliks(loaded, [[row]], budget_tokens=4096).sums[0][0] for row in rows]
    np.testing.assert_allclose(together, alone, atol=1e-5)
