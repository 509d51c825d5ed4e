"""Cut encoded rows into batches of like length under a token budget, and pad them.

Legend: B rows of a batch, T its longest row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.rope import LengthClasses
from ntkcli.engine.transfers import to_device


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows: `ids` (B, T) int64; `weight` (B, T) float32: the positions' weights, a row's sum is 1.

    `weighted` (N, 2) int64 lists the (row, position) of nonzero weight: found on the host, so that no device waits.
    `following` (N,) int64 are the tokens after them; padding after a row's last.
    """

    ids: Tensor
    weight: Tensor
    weighted: Tensor
    following: Tensor


def plan_batches(
    lengths: Sequence[int] | NDArray[np.int64],
    budget_tokens: int,
    classes: LengthClasses | None = None,
    held: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
) -> list[NDArray[np.int64]]:
    """Indices of the rows of each batch, longest rows first, so that what runs out of memory runs out at once.

    A batch holds rows x longest row <= `budget_tokens`, and at least one row. Of all such cuts of the sorted rows this
    is the one of the least padding, where a batch of its own costs `_overhead` tokens: a large budget does not
    pad short rows to the length of long ones. Depends on the arguments alone; O(rows x rows of a batch), vectorised.
    Rows of different `classes` are never in one batch. `held`: how many tokens rows of these lengths count against the
    budget, if not their own.
    """
    if classes is not None:
        of_row = classes(lengths)
        if len(np.unique(of_row)) > 1:
            return _plan_classes(np.asarray(lengths, dtype=np.int64), of_row, budget_tokens, held)
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    sizes = np.maximum(1, np.asarray(lengths, dtype=np.int64)[order])
    most = np.maximum(1, budget_tokens // (sizes if held is None else held(sizes)))  # rows of a batch of this length
    count, overhead = len(order), _overhead(budget_tokens)
    cost = np.zeros(count + 1, dtype=np.int64)  # cost[i]: the cheapest way to batch the rows from i on
    stop = np.zeros(count, dtype=np.int64)  # stop[i]: where the batch that begins at i then ends
    for i in range(count - 1, -1, -1):
        rows = np.arange(1, 1 + min(count - i, int(most[i])))
        costs = rows * sizes[i] + cost[i + rows]
        best = len(rows) - 1 - int(np.argmin(costs[::-1]))  # of equal ones the largest
        cost[i], stop[i] = costs[best] + overhead, i + rows[best]
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < count:
        batches.append(order[start : stop[start]])
        start = int(stop[start])
    return batches


def _plan_classes(
    lengths: NDArray[np.int64],
    of_row: NDArray[np.int64],
    budget_tokens: int,
    held: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None,
) -> list[NDArray[np.int64]]:
    batches = []
    for one in np.unique(of_row):
        rows = np.flatnonzero(of_row == one)
        batches += [rows[where] for where in plan_batches(lengths[rows], budget_tokens, held=held)]
    return sorted(batches, key=lambda where: -int(lengths[where[0]]))


def _overhead(budget_tokens: int) -> int:
    """What a batch costs beside its tokens, in tokens: reading the weights, starting the kernels.

    A share of the budget: both are fewer tokens the larger the model is.
    """
    return budget_tokens // 16


def position_weights(row: Encoded, positions: str) -> NDArray[np.float32]:
    """The weight of each position of a row in f = sum_t weight[t] v·logits_t: (T,) float32, sum 1.

    `completion`: 1/|P| on the positions that predict a supervised token; `all`: 1/T on every one (and what a row
    without a supervised token gets); `last`: 1 on the last; `targets`: as `completion`, but never on the last
    position, which predicts no token of the row (for the loss).
    """
    weight = np.zeros(len(row.ids), dtype=np.float32)
    if positions == "last":
        weight[-1] = 1.0
        return weight
    if positions in ("completion", "targets"):
        weight[:-1] = row.supervised[1:]
    if not weight.any():
        weight[:] = 1.0
    if positions == "targets" and len(weight) > 1:
        weight[-1] = 0.0
    weight /= weight.sum()
    return weight


def pad_rows(
    rows: Sequence[NDArray[Any]], fill: int, *, left: bool = False, width: int | None = None
) -> NDArray[np.int64]:
    """Rows of numbers as one array (B, T) int64, with `fill` behind the shorter ones, or before them (`left`).

    T is `width`, by default the length of the longest row.
    """
    longest = max(len(row) for row in rows) if width is None else width
    found = np.full((len(rows), longest), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        if left:
            found[i, longest - len(row) :] = row
        else:
            found[i, : len(row)] = row
    return found


def mask_of(lengths: Sequence[int], *, left: bool = False) -> NDArray[np.int64]:
    """1 where `pad_rows` puts a row of these lengths, else 0: (B, T) int64."""
    lengths_B = np.asarray(lengths, dtype=np.int64)[:, None]
    places_T = np.arange(lengths_B.max())
    return np.where(places_T >= lengths_B.max() - lengths_B if left else places_T < lengths_B, 1, 0)


def pad(rows: Sequence[Encoded], *, positions: str, pad_id: int, device: torch.device, whole: bool = False) -> Batch:
    """The rows as one batch, padded on the right; `positions` as in `position_weights`.

    What follows a row's last position of nonzero weight is left out: in a causal model it changes nothing before it,
    unless the model looks at the length itself (`whole`: see `engine.rope`).
    """
    longest = max(len(row.ids) for row in rows)
    ids = pad_rows([row.ids for row in rows], pad_id, width=longest + 1)
    weight = np.zeros((len(rows), longest), dtype=np.float32)
    for i, row in enumerate(rows):
        weight[i, : len(row.ids)] = position_weights(row, positions)
    weighted = np.argwhere(weight)
    used = longest if whole else int(weighted[:, 1].max()) + 1
    arrays = (ids[:, :used], weight[:, :used], weighted, ids[weighted[:, 0], weighted[:, 1] + 1])
    return Batch(*(to_device(x, device) for x in arrays))


def final_hidden(decoder: Any, batch: Batch) -> Tensor:
    """The decoder's last hidden states (B, T, D).

    Without an attention mask: no position of a causal model looks to its right, where the padding is, and what comes
    out at the padding has weight 0. The kernels for plain causal attention are faster than those that take a mask.
    """
    with one_text_a_row():
        hidden: Tensor = decoder(input_ids=batch.ids, use_cache=False).last_hidden_state
    return hidden


@contextmanager
def one_text_a_row() -> Iterator[None]:
    """Within, transformers is not to look for several texts in a row: it would wait for the device in every forward.

    Without a mask it reads from the positions whether a row is one text, as ours always are
    (`masking_utils.find_packed_sequence_indices`, transformers 4.53 to 5.24 at least).
    """
    from transformers import masking_utils

    own = getattr(masking_utils, _FINDS_TEXTS, None)
    if own is None:
        yield
        return
    setattr(masking_utils, _FINDS_TEXTS, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(masking_utils, _FINDS_TEXTS, own)


_FINDS_TEXTS = "find_packed_sequence_indices"
