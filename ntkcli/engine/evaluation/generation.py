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
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import mask_of, pad_rows
from ntkcli.engine.memory import TokenBudget, run_batches
from ntkcli.engine.models.loading import LoadedModel
from ntkcli.engine.rope import length_classes


def generate_greedily(
    loaded: LoadedModel,
    prompts: Sequence[Encoded],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    budget: TokenBudget,
) -> list[list[int] | None]:
    """The tokens written after each prompt, up to the first of `stop_ids` (left out) or `max_new_tokens`.

    None where a logit that decides on a token is not finite. An answer's room counts as tokens.

    Raises:
        DoesNotFitError: a prompt and its answer do not fit in memory; `row` is its place in `prompts`.
    """
    answers: list[list[int] | None] = [None] * len(prompts)
    stops = set(stop_ids)
    padded: set[int] = set()

    def compute(where: NDArray[np.int64]) -> None:
        written, finite = _generate(loaded, [prompts[i] for i in where], sorted(stops), max_new_tokens)
        for i, tokens, good in zip(where.tolist(), written, finite, strict=True):
            end = next((at for at, token in enumerate(tokens) if token in stops), len(tokens))
            answers[i] = tokens[:end] if good >= min(end + 1, len(tokens)) else None
            if len(prompts[i]) < len(prompts[where[0]]):
                padded.add(i)

    by_length = length_classes(loaded.model.config)

    def classes(totals: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        # A longer prompt beside it would take a shorter one over the limit some tokens too early.
        found = np.asarray(totals, dtype=np.int64)
        return found * 0 if by_length is None else np.where(by_length(found) > 0, found, 0)

    run_batches([len(prompt) + max_new_tokens for prompt in prompts], budget, compute, classes)
    for i in [i for i in padded if answers[i] is None]:  # padding may be to blame, and no answer is lost for its batch
        compute(np.array([i]))
    return answers


def longest_context(loaded: LoadedModel) -> int | None:
    """Positions that the model has, by its configuration; None if it doesn't say."""
    value = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    return int(value) if value else None


@torch.inference_mode()
def _generate(
    loaded: LoadedModel, prompts: Sequence[Encoded], stop_ids: list[int], max_new_tokens: int
) -> tuple[list[list[int]], list[int]]:
    """The new tokens of each prompt, padded, and how many of them were decided on by finite logits."""
    from transformers import GenerationConfig, LogitsProcessorList

    longest = max(len(prompt) for prompt in prompts)
    pad_id = loaded.tokenizer.pad_token_id or 0
    ids = pad_rows([prompt.ids for prompt in prompts], pad_id, left=True)
    mask = mask_of([len(prompt) for prompt in prompts], left=True)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=pad_id,
        eos_token_id=stop_ids or None,
    )
    watch = _Watch()
    with _only(loaded.model, config):
        found = loaded.model.generate(
            input_ids=torch.from_numpy(ids).to(loaded.device),
            attention_mask=torch.from_numpy(mask).to(loaded.device),
            logits_processor=LogitsProcessorList([watch]),
        )
    written: list[list[int]] = found[:, longest:].tolist()
    return written, watch.finite()


class _Watch:
    """A logits processor that changes nothing and counts, for each prompt, its tokens before a logit is not finite.

    A logit of minus infinity is a token that the model rules out, and may stand.
    """

    def __init__(self) -> None:
        self._seen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores_BV: Tensor) -> Tensor:
        """The scores as they are."""
        del input_ids
        self._seen.append(torch.isfinite(scores_BV.amax(dim=-1)))  # not a number stays one under amax
        return scores_BV

    def finite(self) -> list[int]:
        """The number of steps before the first that was not finite."""
        steps_BS = torch.stack(self._seen, dim=1)
        counts: list[int] = steps_BS.long().cumprod(dim=1).sum(dim=1).tolist()
        return counts


@contextmanager
def _only(model: Any, config: Any) -> Iterator[None]:
    """The model with this generation configuration in place of its own, which would fill in what ours leaves open."""
    own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = own
