"""Several rows in one sequence, in which none sees another: the batch, what a model is given, and if it can.

Positions start again at every row. transformers finds the rows by that where no attention mask is given
(`masking_utils.find_packed_sequence_indices`), and lets each attend to itself alone; windows count inside of a row.
Padding is a row of its own. What other models make of it is tried on a small sequence before training.

Legend: B sequences, T their longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.memory import out_of_memory
from ntkcli.engine.models.loading import LoadedModel, decoder_of
from ntkcli.engine.rope import length_classes
from ntkcli.errors import UsageError

PROBE_LENGTHS = (11, 7, 9, 5)
"""Rows of the small sequence that is tried: long enough for distances to matter."""
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Relative, of hidden states: above what rounding moves, far below what a row that sees another one moves."""
_LAYERS = ("full_attention", "sliding_attention")
"""Kinds of layers that look at a row alone, however long it is; a small sequence could not show it of others."""
_CANNOT = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What models raise that don't know positions of our own."""


def joined(rows: Sequence[Encoded]) -> Encoded:
    """The rows one after the other. The first token of each is not supervised: nothing of its row predicts it."""
    supervised = [np.concatenate([[False], row.supervised[1:]]) for row in rows]
    return Encoded(np.concatenate([row.ids for row in rows]), np.concatenate(supervised), truncated=False)


def segments_of(packs: Sequence[Sequence[Encoded]]) -> Tensor:
    """Which row of its sequence each token is of (B, T) int64, from 0; padding has the number after the last."""
    longest = max(sum(map(len, rows)) for rows in packs)
    segments = np.empty((len(packs), longest), dtype=np.int64)
    for b, rows in enumerate(packs):
        numbers = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        segments[b, : len(numbers)] = numbers
        segments[b, len(numbers) :] = len(rows)
    return torch.from_numpy(segments)


def positions_of(segments_BT: Tensor) -> Tensor:
    """Positions that start again at 0 with every row (B, T) int64."""
    places = torch.arange(segments_BT.shape[1], device=segments_BT.device).expand_as(segments_BT)
    begins = torch.ones_like(segments_BT, dtype=torch.bool)
    begins[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    return places - torch.where(begins, places, 0).cummax(dim=1).values


def require_packing(loaded: LoadedModel) -> None:
    """UsageError, naming the architecture, if rows in one sequence would not be computed as they are by themselves."""
    config = loaded.model.config.get_text_config()
    fix = "Leave --pack out: rows of similar length are computed together, each by itself."
    what = f"--pack: models of type {config.model_type}"
    odd = sorted(set(getattr(config, "layer_types", None) or []) - set(_LAYERS))
    if odd:
        raise UsageError(f"{what} have layers of kind {odd[0]}, which carry over from one row to the next.", fix)
    if length_classes(loaded.model.config) is not None:
        raise UsageError(f"{what} have positions that depend on the length of the whole sequence.", fix)
    if not _computes_apart(loaded):
        raise UsageError(f"{what} mix the rows of one sequence.", fix)


@torch.inference_mode()
def _computes_apart(loaded: LoadedModel) -> bool:
    """Whether small sequences of rows have the hidden states that their rows have by themselves.

    Two sequences: flash attention finds rows by their positions in one alone.
    """
    embedded = loaded.model.get_input_embeddings().weight.shape[0]
    draw = np.random.default_rng(0)
    rows = [torch.from_numpy(draw.integers(0, embedded, n)).to(loaded.device) for n in PROBE_LENGTHS]
    lengths = torch.tensor(PROBE_LENGTHS)
    numbers = torch.arange(len(rows))
    segments = torch.stack([numbers.repeat_interleave(lengths), numbers.repeat_interleave(lengths.flip(0))])
    decoder = decoder_of(loaded.model)
    each = [_states(decoder, row[None])[0] for row in rows]
    apart = torch.stack([torch.cat(each), torch.cat(each[::-1])])
    try:
        ids = torch.stack([torch.cat(rows), torch.cat(rows[::-1])])
        packed = _states(decoder, ids, positions_of(segments).to(loaded.device))
    except _CANNOT as error:
        if out_of_memory(error):
            raise
        return False
    moved = (packed - apart).float().norm(dim=-1) / apart.float().norm(dim=-1)
    return bool(moved.max() < PROBE_TOLERANCE.get(loaded.dtype, 1e-3))


def _states(decoder: Any, ids_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
    how = {} if positions_BT is None else {"position_ids": positions_BT}
    states: Tensor = decoder(input_ids=ids_BT, use_cache=False, **how).last_hidden_state
    return states
