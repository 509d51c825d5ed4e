"""Many rows as tokens, in order: Python renders and verifies while the tokenizer works on the other cores.

The tokenizer gives Python's lock free and takes all cores; rendering and masks hold it. So both go on side by side,
some hundred rows apart. Must not know files or stores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

from ntkcli.data.encoding import Encoded, Encoder
from ntkcli.data.masking import Draft
from ntkcli.data.rows import BadRow, Row, RowError

CHUNK_ROWS: Final = 256
"""Rows tokenised at a time: some 50 ms of a core, against the 5 ms after which Python's threads take turns."""
_AHEAD: Final = 2  # chunks that are drafted or tokenised before the oldest one is finished

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Chunk:
    rows: list[Row | BadRow]
    drafts: list[Draft | Encoded | RowError | None]
    encodings: Future[list[Any]]


def encode_whole(
    rows: Iterable[Row | BadRow], encoder: Encoder
) -> Iterator[tuple[Row | BadRow, Encoded | RowError | None]]:
    """Each row with its tokens before any cut (`Encoder.whole`): an error where it is refused, None for a bad row."""
    stream = iter(rows)
    chunks: deque[_Chunk] = deque()
    with ThreadPoolExecutor(1, "tokenise") as pool:
        while True:
            if some := list(islice(stream, CHUNK_ROWS)):
                chunks.append(_drafted(some, encoder, pool))
            if not chunks:
                return
            if not some or len(chunks) > _AHEAD:
                yield from _finished(chunks.popleft(), encoder)


def _drafted(rows: list[Row | BadRow], encoder: Encoder, pool: ThreadPoolExecutor) -> _Chunk:
    drafts = [attempt(encoder.draft, row) if isinstance(row, Row) else None for row in rows]
    return _Chunk(rows, drafts, pool.submit(encoder.tokenise, [each for each in drafts if isinstance(each, Draft)]))


def _finished(chunk: _Chunk, encoder: Encoder) -> Iterator[tuple[Row | BadRow, Encoded | RowError | None]]:
    encodings = iter(chunk.encodings.result())
    for row, draft in zip(chunk.rows, chunk.drafts, strict=True):
        yield row, attempt(encoder.finish, draft, next(encodings)) if isinstance(draft, Draft) else draft


def attempt(make: Callable[..., T], *given: Any) -> T | RowError:
    """What `make` returns, or the error with which it refuses the row."""
    try:
        return make(*given)
    except RowError as error:
        return error
