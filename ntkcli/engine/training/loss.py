"""The loss of a training step, in pieces that fit: rows of like length together, gradients summed piece by piece.

The loss is the mean cross-entropy over all supervised tokens of the step's rows, as transformers' Trainer has it: a sum
over pieces, divided by the count of the whole step, so that how a step is cut changes rounding only.

Legend: B rows, T tokens, N supervised tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import out_of_memory
from ntkcli.engine.models.loading import decoder_of, head_logits
from ntkcli.errors import NtkselError

IGNORED = -100
"""The label of a token that is not supervised, as in PyTorch and transformers."""
SHORTEST_SHARE = 0.75
"""Of the longest row of a group, how short a row in it may be: at most a quarter of what is computed is padding."""
NAMED_ROWS = 5
"""Rows that an error names; the others are counted."""


class StepLoss:
    """Computes losses of a model's steps, at most `budget_tokens` padded tokens at a time.

    On out-of-memory the budget halves, for good; rows are never cut. `autocast` gives the precision's context.
    """

    def __init__(
        self,
        model: Any,
        *,
        budget_tokens: int,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._model, self._decoder, self._autocast = model, decoder_of(model), autocast
        self.budget_tokens = budget_tokens

    def backward(self, batch: dict[str, Tensor], backward: Callable[[Tensor], object]) -> Tensor:
        """The step's loss, detached; `backward` is called with each piece's share of it.

        NtkselError if a single row does not fit in memory.
        """
        while True:
            try:
                return self._backward(batch, backward)
            except RuntimeError as error:
                longest = int(batch["attention_mask"].sum(dim=1).max())
                if not out_of_memory(error):
                    raise
                if self.budget_tokens <= longest:
                    raise NtkselError(
                        f"A row of {longest} tokens does not fit in memory.",
                        "Give --gradient-checkpointing, a shorter --max-length or --dtype bfloat16.",
                    ) from error
                padded = longest * len(batch["input_ids"])
                self.budget_tokens = max(longest, min(self.budget_tokens, padded) // 2)
                self._model.zero_grad()  # of the pieces that did fit
                torch.cuda.empty_cache()  # nothing on a machine without CUDA

    def rows(self, batch: dict[str, Tensor]) -> list[float]:
        """The mean loss of each row by itself, without gradients."""
        found = []
        with torch.no_grad():
            for i in range(len(batch["input_ids"])):
                length = int(batch["attention_mask"][i].sum())
                total, count = self._sum(batch, torch.tensor([i], device=batch["labels"].device), length)
                found.append(float(total) / max(1, count))
        return found

    def mean(self, batches: Sequence[dict[str, Tensor]], device: torch.device) -> float:
        """The mean loss over the supervised tokens of all batches, without gradients."""
        total, count = 0.0, 0
        with torch.no_grad():
            for batch in batches:
                placed = {name: x.to(device) for name, x in batch.items()}
                everyone = torch.arange(len(batch["input_ids"]), device=device)
                loss, tokens = self._sum(placed, everyone, batch["input_ids"].shape[1])
                total, count = total + float(loss), count + tokens
        return total / max(1, count)

    def _backward(self, batch: dict[str, Tensor], backward: Callable[[Tensor], object]) -> Tensor:
        labels = batch["labels"]
        count = (labels[:, 1:] != IGNORED).sum().clamp(min=1)
        total = torch.zeros((), device=labels.device)
        for group, length in like_lengths(batch["attention_mask"].sum(dim=1), self.budget_tokens):
            loss = self._sum(batch, group, length)[0] / count
            backward(loss)
            total += loss.detach()
        return total

    def _sum(self, batch: dict[str, Tensor], group: Tensor, length: int) -> tuple[Tensor, int]:
        """Cross-entropy summed over the supervised tokens of some rows, and their number."""
        mask, labels = batch["attention_mask"][group, :length], batch["labels"][group, :length]
        with self._autocast():
            output = self._decoder(input_ids=batch["input_ids"][group, :length], attention_mask=mask, use_cache=False)
            return completion_loss(self._model, output.last_hidden_state, labels)


def like_lengths(lengths_B: Tensor, budget_tokens: int | None = None) -> list[tuple[Tensor, int]]:
    """The rows of a step in groups of like length, each with its longest: computed apart, they need little padding.

    A group ends where a row is shorter than `SHORTEST_SHARE` of its longest, or where it would hold more than
    `budget_tokens` padded tokens (a single row may).
    """
    order = torch.argsort(lengths_B, descending=True, stable=True)
    sorted_lengths = lengths_B[order].tolist()
    groups: list[tuple[Tensor, int]] = []
    start = 0
    for i in range(1, len(order) + 1):
        longest = sorted_lengths[start]
        full = budget_tokens is not None and (i - start + 1) * longest > budget_tokens
        if i == len(order) or full or sorted_lengths[i] < SHORTEST_SHARE * longest:
            groups.append((order[start:i], int(longest)))
            start = i
    return groups


def completion_loss(model: Any, hidden_BTD: Tensor, labels_BT: Tensor) -> tuple[Tensor, int]:
    """Cross-entropy summed over the supervised tokens, and their number N.

    The head is applied to their predictors alone: nothing else has logits.
    """
    wanted_BT = labels_BT[:, 1:] != IGNORED
    logits_NV = head_logits(model, hidden_BTD[:, :-1][wanted_BT]).float()
    total = torch.nn.functional.cross_entropy(logits_NV, labels_BT[:, 1:][wanted_BT], reduction="sum")
    return total, len(logits_NV)


def collate(rows: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask`, `labels` (B, T) int64, padded on the right."""
    longest = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    labels = np.full((len(rows), longest), IGNORED, dtype=np.int64)
    for i, row in enumerate(rows):
        length = len(row.ids)
        ids[i, :length] = row.ids
        mask[i, :length] = 1
        labels[i, :length][row.supervised] = row.ids[row.supervised]
    return {name: torch.from_numpy(x) for name, x in (("input_ids", ids), ("attention_mask", mask), ("labels", labels))}


def not_finite(step: int, loss: float, rows: Sequence[str], losses: Sequence[float]) -> NtkselError:
    """The error of a step whose loss is not finite: names the rows that make it so, by their own losses."""
    bad = [row for row, own in zip(rows, losses, strict=True) if not np.isfinite(own)]
    more = f" and {len(bad) - NAMED_ROWS} more" if len(bad) > NAMED_ROWS else ""
    named = ", ".join(bad[:NAMED_ROWS]) + more
    if 0 < len(bad) < len(rows):
        what = f"only {len(bad)} of its {len(rows)} rows make it so: {named}."
        mend = "Take them out, or give --dtype float32 or a lower --lr; then give the run another --name."
    else:
        what = f"training has diverged; all of the step's rows make it so: {named or ', '.join(rows[:NAMED_ROWS])}."
        mend = "Lower --lr, or give --dtype float32; then give the run another --name."
    return NtkselError(f"The loss of step {step} is {loss}: {what}", mend)
