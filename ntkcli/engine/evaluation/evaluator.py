"""One base model for the evaluation of many runs: adapters are put beside it and taken off, never merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkcli.data.encoding import Encoded, Encoder
from ntkcli.engine.evaluation.generation import generate_greedily, longest_context, stop_tokens
from ntkcli.engine.evaluation.loglikelihood import Likelihoods, choice_logliks
from ntkcli.engine.features.extract import default_batch_tokens
from ntkcli.engine.models.adapters import attach_adapter
from ntkcli.engine.models.loading import LoadedModel
from ntkcli.errors import UsageError
from ntkcli.identity import AdapterIdentity, ModelIdentity, refuse_other_base


class Evaluator:
    """What runs are judged by, under the base model or under it with one adapter at a time."""

    def __init__(self, loaded: LoadedModel, encoder: Encoder, *, batch_tokens: int | None) -> None:
        self.loaded, self.encoder = loaded, encoder
        self._attached: Any = None
        self._budget = batch_tokens or default_batch_tokens(loaded, backward=False)

    def use(self, adapter: AdapterIdentity | None, model: ModelIdentity) -> None:
        """Switch to the adapter, or to the bare model for None. Refuses an adapter of another base model."""
        if self._attached is not None:
            self._attached.unload()
            self._attached = None
        if adapter is not None:
            refuse_other_base(adapter, model)
            self._attached = attach_adapter(self.loaded.model, adapter)
            self._attached.eval()

    def logliks(self, items: Sequence[Sequence[Encoded]]) -> list[NDArray[np.float64]]:
        """The `sums` of `likelihoods`."""
        return self.likelihoods(items).sums

    def likelihoods(self, items: Sequence[Sequence[Encoded]]) -> Likelihoods:
        """As `loglikelihood.choice_logliks`."""
        found = choice_logliks(self.loaded, items, budget_tokens=self._budget)
        self._budget = found.budget_tokens
        return found

    def answers(self, prompts: Sequence[Encoded], *, end_of_turn: int | None, max_new_tokens: int) -> list[str]:
        """What the model writes after each prompt, greedily, without special tokens and outer white space.

        UsageError if prompt and answer may need more positions than the model has.
        """
        room, longest = longest_context(self.loaded), max((len(prompt) for prompt in prompts), default=0)
        if room is not None and longest + max_new_tokens > room:
            raise UsageError(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the model's {room} positions.",
                f"Give --max-length {max(3, room - max_new_tokens)}, or fewer --max-new-tokens.",
            )
        stop_ids = stop_tokens(self.loaded, end_of_turn)
        return [text.strip() for text in self.continuations(prompts, stop_ids=stop_ids, max_new_tokens=max_new_tokens)]

    def continuations(self, prompts: Sequence[Encoded], *, stop_ids: Sequence[int], max_new_tokens: int) -> list[str]:
        """The texts of `generation.generate_greedily`, without special tokens."""
        written, self._budget = generate_greedily(
            self.loaded, prompts, stop_ids=stop_ids, max_new_tokens=max_new_tokens, budget_tokens=self._budget
        )
        texts: list[str] = self.loaded.tokenizer.batch_decode(written, skip_special_tokens=True)
        return texts
