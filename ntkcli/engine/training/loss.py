"""The loss of a training step, in pieces that fit: rows of like length together, gradients summed piece by piece.

Per token, the loss is the mean cross-entropy over all supervised tokens of the step's rows, as transformers' Trainer
has it. Per row, it is the mean over rows of each row's own mean, so that a long answer weighs no more than a short one.
Rows may be packed into sequences (`ntkcli.engine.training.packs`): each still counts by itself. Both are weighted sums
over pieces, with weights that depend on the whole step: how a step is cut changes rounding only.

Legend: B rows, T tokens, N supervised tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import mask_of, pad_rows
from ntkcli.engine.memory import LOGIT_BYTES, Footprint, TokenBudget, run_batches
from ntkcli.engine.models.loading import decoder_of, head_logits, head_of
from ntkcli.engine.rope import LengthClasses, length_classes
from ntkcli.engine.training.packs import joined, positions_of, segments_of
from ntkcli.errors import DivergedError, listed

IGNORED = -100
"""The label of a token that is not supervised, as in PyTorch and transformers."""
SHORTEST_SHARE = 0.75
"""Of the longest row of a group, how short a row in it may be: at most a quarter of what is computed is padding."""


class StepLoss:
    """Computes losses of a model's steps, at most `budget.tokens` padded tokens at a time.

    `per_row`: the mean over rows of each row's mean, instead of the mean over all supervised tokens. On out-of-memory
    the budget halves, for good; rows are never cut. `autocast` gives the precision's context; `footprint`: what rows
    hold, where memory is counted.
    """

    def __init__(
        self,
        model: Any,
        *,
        budget_tokens: int,
        per_row: bool = False,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        footprint: Footprint | None = None,
    ) -> None:
        self._model, self._decoder, self._autocast = model, decoder_of(model), autocast
        self.budget = TokenBudget(budget_tokens, footprint)
        self._classes = length_classes(model.config)
        self._per_row = per_row

    def backward(
        self, batch: dict[str, Tensor], backward: Callable[[Tensor], object], *, count: float | None = None
    ) -> Tensor:
        """The step's loss, detached; `backward` is called with each piece's share of it.

        `count`: the supervised tokens (or the rows) of the whole step, where the batch is one process's part of it.
        DoesNotFitError if a single row does not fit in memory; `row` is its place in the batch.
        """
        while (total := self._backward(batch, backward, count)) is None:
            self._model.zero_grad()  # of the pieces that did fit
        return total

    def rows(self, batch: dict[str, Tensor]) -> list[float]:
        """The mean loss of each row by itself, without gradients."""
        found = []
        with torch.no_grad():
            weights = 1 / supervised_counts(batch["labels"]).clamp(min=1)[:, None]
            for i in range(len(batch["input_ids"])):
                length = int(batch["attention_mask"][i].sum())
                found.append(float(self._sum(batch, torch.tensor([i], device=weights.device), length, weights)))
        return found

    def count_of(self, rows: Sequence[Encoded]) -> float:
        """What a step's loss is divided by: the supervised tokens of these rows, or how many rows have some."""
        counts = np.array([row.supervised[1:].sum() for row in rows], dtype=np.int64)
        return float((counts > 0).sum() if self._per_row else counts.sum())

    def mean(self, rows: Sequence[Encoded], *, pad_id: int, device: torch.device) -> float:
        """The mean loss over the supervised tokens (or the rows) of all rows, without gradients; errors as `sums`."""
        total, count = self.sums(rows, pad_id=pad_id, device=device)
        return total / max(1.0, count)

    def sums(self, rows: Sequence[Encoded], *, pad_id: int, device: torch.device) -> tuple[float, float]:
        """The loss summed over the supervised tokens (or the rows), without gradients, and how many they are.

        DoesNotFitError if a row does not fit in memory; `row` is its place in `rows`.
        """
        total, count = 0.0, 0.0

        def compute(where: NDArray[np.int64]) -> None:
            nonlocal total, count
            batch = {name: x.to(device) for name, x in collate([rows[i] for i in where], pad_id).items()}
            everyone = torch.arange(len(where), device=device)
            weights, batch_count = self._weights(batch)
            loss = float(self._sum(batch, everyone, batch["input_ids"].shape[1], weights))
            total, count = total + loss, count + float(batch_count)

        with torch.no_grad():
            run_batches([len(row) for row in rows], self.budget, compute, self._classes)
        return total, count

    def _backward(
        self, batch: dict[str, Tensor], backward: Callable[[Tensor], object], whole: float | None
    ) -> Tensor | None:
        """The step's loss by the present budget; None if memory ran out on the way."""
        weights, count = self._weights(batch)
        if whole is not None:
            count = torch.full_like(count, whole)
        total = torch.zeros((), device=batch["labels"].device)

        def piece(group: Tensor, length: int) -> None:
            nonlocal total
            loss = self._sum(batch, group, length, weights) / count.clamp(min=1)
            backward(loss)
            total = total + loss.detach()

        lengths_B = batch["attention_mask"].sum(dim=1)
        for group, length in like_lengths(lengths_B, self.budget.tokens, self._classes, self.budget.row):
            if not self.budget.fits(partial(piece, group, length), group.tolist(), longest=length):
                return None
        return total

    def _weights(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What a supervised token weighs in the sum, float32, and what the sum is divided by.

        The weights are one for each row of the batch (B, 1); in packs, one for each predicting position (B, T - 1).
        """
        labels_BT, segments_BT = batch["labels"], batch.get("segments")
        counts_B = supervised_counts(labels_BT)
        if not self._per_row:
            return torch.ones_like(counts_B)[:, None], counts_B.sum()
        if segments_BT is None:
            return 1 / counts_B.clamp(min=1)[:, None], (counts_B > 0).sum()
        own_BT = segments_BT[:, 1:]
        counts_BS = torch.zeros(len(own_BT), int(segments_BT.max()) + 1, device=own_BT.device)
        counts_BS.scatter_add_(1, own_BT, (labels_BT[:, 1:] != IGNORED).float())
        return (1 / counts_BS.clamp(min=1)).gather(1, own_BT), (counts_BS > 0).sum()

    def _sum(self, batch: dict[str, Tensor], group: Tensor, length: int, weights: Tensor) -> Tensor:
        """Cross-entropy summed over the supervised tokens of some rows, each times its weight."""
        labels = batch["labels"][group, :length]
        if (segments := batch.get("segments")) is None:
            form = {"attention_mask": batch["attention_mask"][group, :length]}
        else:
            form = {"position_ids": positions_of(segments[group, :length])}
        with self._autocast():
            output = self._decoder(input_ids=batch["input_ids"][group, :length], use_cache=False, **form)
            return completion_loss(self._model, output.last_hidden_state, labels, weights[group, : length - 1])


def like_lengths(
    lengths_B: Tensor,
    budget_tokens: int | None = None,
    classes: LengthClasses | None = None,
    held: Callable[[int], int] = int,
) -> list[tuple[Tensor, int]]:
    """The rows of a step in groups of like length, each with its longest: computed apart, they need little padding.

    A group ends where a row is shorter than `SHORTEST_SHARE` of its longest, or where it would hold more than
    `budget_tokens` padded tokens (a single row may), or where the next row is of another of the `classes`. `held`: how
    many tokens a row padded to a length counts.
    """
    order = torch.argsort(lengths_B, descending=True, stable=True)
    sorted_lengths = lengths_B[order].tolist()
    kinds = [0] * len(order) if classes is None else classes(sorted_lengths).tolist()
    groups: list[tuple[Tensor, int]] = []
    start = 0
    for i in range(1, len(order) + 1):
        longest = sorted_lengths[start]
        full = budget_tokens is not None and (i - start + 1) * held(int(longest)) > budget_tokens
        if i == len(order) or full or kinds[i] != kinds[start] or sorted_lengths[i] < SHORTEST_SHARE * longest:
            groups.append((order[start:i], int(longest)))
            start = i
    return groups


def supervised_counts(labels_BT: Tensor) -> Tensor:
    """Supervised tokens of each row (B,) float32: its labels, without the first position, which nothing predicts."""
    return (labels_BT[:, 1:] != IGNORED).sum(dim=1).float()


def completion_loss(model: Any, hidden_BTD: Tensor, labels_BT: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy summed over the supervised tokens, each times its weight: `weights` (B, 1) or (B, T - 1).

    The head is applied to their predictors alone: nothing else has logits. Of more than `LOGIT_BYTES`, block by block.
    """
    wanted_BT = labels_BT[:, 1:] != IGNORED
    hidden_ND, labels_N = hidden_BTD[:, :-1][wanted_BT], labels_BT[:, 1:][wanted_BT]
    weights_N = weights.expand_as(wanted_BT)[wanted_BT]
    block = max(1, LOGIT_BYTES // (4 * head_of(model).out_features))
    if len(labels_N) <= block:
        return _cross_entropy(model, hidden_ND, labels_N, weights_N)
    trained = [weight for weight in head_of(model).parameters() if weight.requires_grad]
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (hidden_ND, *trained))
    total: Tensor = _BlockedLoss.apply(model, block, wanted, labels_N, weights_N, hidden_ND, *trained)  # type: ignore[no-untyped-call]
    return total


def _cross_entropy(model: Any, hidden_ND: Tensor, labels_N: Tensor, weights_N: Tensor) -> Tensor:
    losses_N = torch.nn.functional.cross_entropy(head_logits(model, hidden_ND).float(), labels_N, reduction="none")
    return (losses_N * weights_N).sum()


class _BlockedLoss(torch.autograd.Function):
    """The summed cross-entropy with the logits of one block at a time.

    The gradient is made with the loss, while a block's logits are there, and kept instead of them: D numbers a token in
    place of V, and no product with the head is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, model: Any, block: int, wanted: bool, labels_N: Tensor, weights_N: Tensor, hidden_ND: Tensor,
        *trained: Tensor,
    ) -> Tensor:  # fmt: skip
        """The loss. Gradients are made larger and divided in float32: in float16 they would underflow."""
        total = torch.zeros((), device=hidden_ND.device)
        hidden_grads: list[Tensor] = []
        trained_grads = [torch.zeros_like(weight, dtype=torch.float32) for weight in trained]
        for start in range(0, len(labels_N), block):
            where = slice(start, start + block)
            part_ND = hidden_ND[where].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                loss = _cross_entropy(model, part_ND, labels_N[where], weights_N[where])
            total += loss.detach()
            if wanted:
                above = torch.full_like(loss, _LARGER)
                first, *others = torch.autograd.grad(loss, [part_ND, *trained], above)
                hidden_grads.append(_undone(first))
                for summed, gradient in zip(trained_grads, others, strict=True):
                    summed.add_(gradient.float() / _LARGER)
        ctx.dtypes = [hidden_ND.dtype, *(weight.dtype for weight in trained)]
        ctx.save_for_backward(*([torch.cat(hidden_grads)] if wanted else []), *trained_grads)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients, times what comes from above."""
        found = [(upstream[0] * x).to(dtype) for x, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)]
        return (None, None, None, None, None, *found)


_LARGER = 64.0
"""A power of two, so that it changes no digit; what the Trainer's scaled gradients come to in steps of 1,000 tokens."""


def _undone(gradient: Tensor) -> Tensor:
    """Without the factor; float16 becomes float32, to hold what is below its smallest number."""
    return (gradient.float() if gradient.dtype == torch.float16 else gradient) / _LARGER


def collate(rows: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask`, `labels` (B, T) int64, padded on the right."""
    ids = pad_rows([row.ids for row in rows], pad_id)
    learned = pad_rows([row.supervised for row in rows], 0)
    arrays = {
        "input_ids": ids,
        "attention_mask": mask_of([len(row) for row in rows]),
        "labels": np.where(learned > 0, ids, IGNORED),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def collate_packs(packs: Sequence[Sequence[Encoded]], pad_id: int) -> dict[str, Tensor]:
    """As `collate`, of sequences that hold several rows each; with `segments` (B, T) int64."""
    return collate([joined(rows) for rows in packs], pad_id) | {"segments": segments_of(packs)}


def not_finite(what: str, loss: float, names: Sequence[str], losses: Sequence[float]) -> DivergedError:
    """The error of a loss (`what`) that is not finite: names the rows that make it so, by their own losses."""
    bad = [name for name, own in zip(names, losses, strict=True) if not np.isfinite(own)]
    if 0 < len(bad) < len(names):
        why = f"only {len(bad)} of its {len(names)} rows make it so: {listed(bad)}."
        fix = "Take them out, or give --dtype float32 or a lower --lr; then give the run another --name."
    else:
        why = f"training has diverged; all of its rows make it so: {listed(bad or names)}."
        fix = "Lower --lr, or give --dtype float32; then give the run another --name."
    return DivergedError(f"{what} is {loss}: {why}", fix)
