"""Greedy answers against a plain loop that computes everything anew for each token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntkcli.data.encoding import Encoded
from ntkcli.engine.evaluation.generation import generate_greedily
from ntkcli.engine.memory import TokenBudget
from ntkcli.engine.models.environment import stop_tokens
from ntkcli.engine.models.loading import LoadedModel
from tests.engine.kit import load

DRAW = np.random.default_rng(0)
PROMPTS = [
    Encoded(DRAW.integers(3, 97, n).astype(np.int32), np.zeros(n, dtype=np.bool_), truncated=False)
    for n in (1, 7, 3, 12, 5)
]
NEW = 9


def plain_loop(loaded: LoadedModel, prompt: Encoded, stops: list[int]) -> list[int]:
    ids, written = prompt.ids.tolist(), []
    while len(written) < NEW:
        with torch.no_grad():
            token = int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in stops:
            break
        ids, written = [*ids, token], [*written, token]
    return written


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2_softcap", "gpt2_conv1d"])
def test_equals_a_plain_loop_for_any_batch(name: str) -> None:
    loaded = load(name)
    free = plain_loop(loaded, PROMPTS[1], [])
    stops = [free[4]]  # a token that is really written
    expected = [plain_loop(loaded, prompt, stops) for prompt in PROMPTS]
    assert len({len(tokens) for tokens in expected}) > 1
    for budget in (1, 30, 4096):
        found = generate_greedily(loaded, PROMPTS, stop_ids=stops, max_new_tokens=NEW, budget=TokenBudget(budget))
        assert found == expected, budget


def test_the_folders_own_settings_are_left_out() -> None:
    """A penalty in generation_config.json changes nothing, and stands there still afterwards."""
    loaded = load("llama")
    expected = [plain_loop(loaded, prompt, []) for prompt in PROMPTS]
    loaded.model.generation_config.repetition_penalty = 5.0
    found = generate_greedily(loaded, PROMPTS, stop_ids=[], max_new_tokens=NEW, budget=TokenBudget(64))
    assert found == expected
    assert loaded.model.generation_config.repetition_penalty == 5.0


def test_stop_tokens_are_the_tokenizers_the_models_and_the_turns() -> None:
    loaded = load("llama")
    loaded.model.generation_config.eos_token_id = [5, 6]
    own = loaded.tokenizer.eos_token_id
    assert stop_tokens(loaded, 9) == sorted({5, 6, 9, *([] if own is None else [own])})
