"""One base model for the evaluation of many runs: adapters are put beside it and taken off, never merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkcli.data.encoding import Encoded, Encoder
from ntkcli.engine.adapters import attach_adapter, refuse_other_base
from ntkcli.engine.extract import default_batch_tokens
from ntkcli.engine.loglikelihood import choice_logliks
from ntkcli.engine.models import LoadedModel
from ntkcli.identity import AdapterIdentity, ModelIdentity


class Evaluator:
    """Log-likelihoods of choices under the base model, or under it with one adapter at a time."""

    def __init__(self, loaded: LoadedModel, encoder: Encoder, *, batch_tokens: int | None) -> None:
        self._loaded, self.encoder = loaded, encoder
        self._attached: Any = None
        self._budget = batch_tokens or default_batch_tokens(loaded, backward=False)

    def use(self, adapter: AdapterIdentity | None, model: ModelIdentity) -> None:
        """Switch to the adapter, or to the bare model for None. Refuses an adapter of another base model."""
        if self._attached is not None:
            self._attached.unload()
            self._attached = None
        if adapter is not None:
            refuse_other_base(adapter, model)
            self._attached = attach_adapter(self._loaded.model, adapter)
            self._attached.eval()

    def logliks(self, items: Sequence[Sequence[Encoded]]) -> list[NDArray[np.float64]]:
        """As `loglikelihood.choice_logliks`."""
        return choice_logliks(self._loaded, items, budget_tokens=self._budget)
