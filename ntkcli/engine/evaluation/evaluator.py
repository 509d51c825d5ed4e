"""One base model for the evaluation of many runs: adapters are put beside it and taken off, never merged."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkcli.data.encoding import Encoded, Encoder
from ntkcli.engine.evaluation.generation import generate_greedily, longest_context
from ntkcli.engine.evaluation.loglikelihood import Likelihoods, choice_logliks, shares_prefixes
from ntkcli.engine.features.extract import token_budget
from ntkcli.engine.models.attach import attach_adapter, take_off, weight_hashes
from ntkcli.engine.models.environment import stop_tokens
from ntkcli.engine.models.footprint import forward_footprint
from ntkcli.engine.models.loading import LoadedModel, load_model
from ntkcli.engine.models.release import free_memory
from ntkcli.engine.models.sharding import run_once
from ntkcli.errors import NtkselError, UsageError, listed
from ntkcli.identity import AdapterIdentity, ModelIdentity, refuse_other_base


class Evaluator:
    """What runs are judged by, under the base model or under it with one adapter at a time."""

    def __init__(self, loaded: LoadedModel, encoder: Encoder, *, batch_tokens: int | None) -> None:
        self.loaded, self.encoder = loaded, encoder
        self._attached: Any = None
        self._weights: dict[str, Any] | None = None
        self._budget = token_budget(loaded, forward_footprint(loaded.model.config, loaded.dtype), batch_tokens)
        shares_prefixes(loaded)  # settled by the bare model, so that it can't differ from run to run
        loaded.lockstep.every_forward = True

    def end(self) -> None:
        """Called when all is evaluated: processes that share the model may still need this one to compute."""
        self.loaded.lockstep.finish(lambda: run_once(self.loaded))

    def use(self, adapter: AdapterIdentity | None, model: ModelIdentity) -> None:
        """Switch to the adapter, or to the bare model for None. Refuses an adapter of another base model.

        The base model is the same bytes for every run. Adapters that leave it changed once they are taken off (modules
        or biases that were trained whole, initial values that are subtracted from the weights) cost loading it again.
        """
        if self._attached is not None:
            self._take_off(model)
        if adapter is not None:
            refuse_other_base(adapter, model)
            if self._weights is None:
                self._weights = weight_hashes(self.loaded.model)
            self._attached = attach_adapter(self.loaded.model, adapter)

    def bare(self, model: ModelIdentity) -> LoadedModel:
        """The model without any adapter, to be trained: `restore` afterwards, whether or not that went well."""
        self.use(None, model)
        if self._weights is None:
            self._weights = weight_hashes(self.loaded.model)
        return self.loaded

    def restore(self, model: ModelIdentity) -> None:
        """Take off what was put into the `bare` model, which is then the same bytes as before."""
        if any(getattr(module, "gradient_checkpointing", False) for module in self.loaded.model.modules()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of names in transformers' next version
                self.loaded.model.gradient_checkpointing_disable()
        take_off(self.loaded.model)
        if self.loaded.device.type == "cuda":
            gc.collect()  # the optimiser's state on the device, which a trainer's callbacks hold in a circle
        self._reload_if_changed(model)

    def _take_off(self, model: ModelIdentity) -> None:
        self._attached.unload()
        self._attached = None
        self._reload_if_changed(model)

    def _reload_if_changed(self, model: ModelIdentity) -> None:
        if weight_hashes(self.loaded.model) != self._weights:
            if not self.loaded.lockstep.alone:
                raise UsageError(
                    "--shard-model: an adapter that leaves the base model changed would have it loaded again.",
                    "Evaluate that run by itself, or without --shard-model.",
                )
            dtype, device = str(self.loaded.dtype).removeprefix("torch."), str(self.loaded.device)
            self.loaded = replace(self.loaded, model=None)
            gc.collect()  # its memory is free before the next one takes it: peft's layers hold theirs in circles
            free_memory()
            self.loaded = load_model(model, dtype=dtype, device=device)
            shares_prefixes(self.loaded)

    def logliks(self, items: Sequence[Sequence[Encoded]]) -> list[NDArray[np.float64]]:
        """The `sums` of `loglikelihood.choice_logliks`: NaN for a choice whose likelihood is not finite."""
        return choice_logliks(self.loaded, items, budget=self._budget).sums

    def likelihoods(self, items: Sequence[Sequence[Encoded]]) -> Likelihoods:
        """As `loglikelihood.choice_logliks`, for callers who can't leave an item out.

        NtkselError if a likelihood is not finite.
        """
        found = choice_logliks(self.loaded, items, budget=self._budget)
        bad = [i for i, sums in enumerate(found.sums) if not np.isfinite(sums).all()]
        if bad:
            raise _not_finite("likelihoods", bad, [max(len(choice) for choice in item) for item in items])
        return found

    def answers(self, prompts: Sequence[Encoded], *, end_of_turn: int | None, max_new_tokens: int) -> list[str | None]:
        """What the model writes after each prompt, greedily, without special tokens and outer white space.

        None where a logit is not finite. UsageError if prompt and answer may need more positions than the model has.
        """
        room, longest = longest_context(self.loaded), max((len(prompt) for prompt in prompts), default=0)
        if room is not None and longest + max_new_tokens > room:
            raise UsageError(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the model's {room} positions.",
                f"Give --max-length {max(3, room - max_new_tokens)}, or fewer --max-new-tokens.",
            )
        found = self._written(prompts, stop_tokens(self.loaded, end_of_turn), max_new_tokens)
        return [None if text is None else text.strip() for text in found]

    def continuations(self, prompts: Sequence[Encoded], *, stop_ids: Sequence[int], max_new_tokens: int) -> list[str]:
        """The texts of `generation.generate_greedily`, without special tokens. NtkselError if a logit is not finite."""
        found = self._written(prompts, stop_ids, max_new_tokens)
        bad = [i for i, text in enumerate(found) if text is None]
        if bad:
            raise _not_finite("logits after prompts", bad, [len(prompt) for prompt in prompts])
        return [text for text in found if text is not None]

    def _written(self, prompts: Sequence[Encoded], stop_ids: Sequence[int], max_new_tokens: int) -> list[str | None]:
        written = generate_greedily(
            self.loaded, prompts, stop_ids=stop_ids, max_new_tokens=max_new_tokens, budget=self._budget
        )
        texts = iter(
            self.loaded.tokenizer.batch_decode([one for one in written if one is not None], skip_special_tokens=True)
        )
        return [None if one is None else str(next(texts)) for one in written]


def _not_finite(what: str, bad: Sequence[int], lengths: Sequence[int]) -> NtkselError:
    named = listed([f"request {i + 1} ({lengths[i]} tokens)" for i in bad])
    return NtkselError(f"The {what} are not finite: {named}.", "Give --dtype float32, or leave the task out.")
