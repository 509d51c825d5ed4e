"""A row as text with the answers in it, and from the tokenizer's output its tokens and their mask, verified.

Must not know templates or how rows are cut.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ntkcli.data.answers import Span
from ntkcli.data.rows import RowError
from store import RowStatus

Ids = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Draft:
    """A row as text that is not tokenised yet; `spans` are the answers in it that are supervised."""

    text: str
    spans: tuple[Span, ...] = ()


def tokens_and_mask(backend: Any, encoding: Any, spans: Sequence[Span]) -> tuple[Ids, Mask]:
    """The ids (T,) int32 of a text that `backend` encoded, and which of them are supervised, (T,) bool.

    RowError if the supervised tokens of an answer don't decode to it.
    """
    tokens: list[int] = encoding.ids
    supervised = np.zeros(len(tokens), dtype=np.bool_)
    offsets: list[tuple[int, int]] = encoding.offsets if spans else []
    for span in spans:
        first, stop = _token_range(offsets, span)
        decoded = _letters(backend.decode(tokens[first:stop], skip_special_tokens=False))
        if not all(_letters(content) in decoded for content in span.contents):
            raise RowError("decoding the supervised tokens doesn't give the answer back", RowStatus.UNMASKED)
        supervised[first:stop] = True
    return np.array(tokens, dtype=np.int32), supervised


def _token_range(offsets: Sequence[tuple[int, int]], span: Span) -> tuple[int, int]:
    """The tokens from the first to the last that touches the span: one that straddles its start says a part of it."""
    touching = (i for i, (start, stop) in enumerate(offsets) if start < span.stop and stop > span.start)
    first = next(touching, None)
    if first is None:
        return 0, 0
    for i in range(len(offsets) - 1, first, -1):
        if offsets[i][0] < span.stop and offsets[i][1] > span.start:
            return first, i + 1
    return first, first + 1


def _letters(text: str) -> str:
    """The text without white space, in one Unicode form: tokenizers may trim and normalise."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return "".join(text.split())
