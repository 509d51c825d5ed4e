"""Greedy generation of answers in batches: prompts padded on the left, one cache of keys and values a batch.

transformers' own loop does it, so that every architecture's cache is right; what a model's folder asks for beside it
(sampling, penalties) is left out, so that an answer depends on prompt and weights only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import run_batches
from ntkcli.engine.models.loading import LoadedModel


def generate_greedily(
    loaded: LoadedModel, prompts: Sequence[Encoded], *, stop_ids: Sequence[int], max_new_tokens: int, budget_tokens: int
) -> tuple[list[list[int]], int]:
    """The tokens written after each prompt, up to the first of `stop_ids` (left out) or `max_new_tokens`.

    Also the token budget for the next call (`batches.run_batches`); an answer's room counts as tokens.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    stops = set(stop_ids)

    def compute(where: NDArray[np.int64]) -> None:
        written = _generate(loaded, [prompts[i] for i in where], sorted(stops), max_new_tokens)
        for i, tokens in zip(where.tolist(), written, strict=True):
            end = next((at for at, token in enumerate(tokens) if token in stops), len(tokens))
            answers[i] = tokens[:end]

    budget = run_batches([len(prompt) + max_new_tokens for prompt in prompts], budget_tokens, compute)
    return answers, budget


def stop_tokens(loaded: LoadedModel, end_of_turn: int | None) -> list[int]:
    """What ends an answer: the end of turn of the chat template, the tokenizer's and the model's own end of text."""
    own = loaded.model.generation_config.eos_token_id if loaded.model.generation_config is not None else None
    found = [loaded.tokenizer.eos_token_id, end_of_turn, *(own if isinstance(own, list) else [own])]
    return sorted({int(token) for token in found if token is not None})


def longest_context(loaded: LoadedModel) -> int | None:
    """Positions that the model has, by its configuration; None if it doesn't say."""
    value = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    return int(value) if value else None


@torch.inference_mode()
def _generate(
    loaded: LoadedModel, prompts: Sequence[Encoded], stop_ids: list[int], max_new_tokens: int
) -> list[list[int]]:
    from transformers import GenerationConfig

    longest = max(len(prompt) for prompt in prompts)
    pad_id = loaded.tokenizer.pad_token_id or 0
    ids = np.full((len(prompts), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(prompts), longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt.ids
        mask[row, longest - len(prompt) :] = 1
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=pad_id,
        eos_token_id=stop_ids or None,
    )
    with _only(loaded.model, config):
        found = loaded.model.generate(
            input_ids=torch.from_numpy(ids).to(loaded.device),
            attention_mask=torch.from_numpy(mask).to(loaded.device),
        )
    written: list[list[int]] = found[:, longest:].tolist()
    return written


@contextmanager
def _only(model: Any, config: Any) -> Iterator[None]:
    """The model with this generation configuration in place of its own, which would fill in what ours leaves open."""
    own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = own
