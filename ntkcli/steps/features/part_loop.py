"""The loop over the parts of a features artefact: encode the next part and write the last while this one computes.

On a GPU a part is read and written after the next one has been handed to the device, which so never runs out of work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli import feature_encoding
from ntkcli.choices import OnError
from ntkcli.data import BadRow, DataFile, Encoded, Row, RowError
from ntkcli.errors import DataError
from ntkcli.progress import Progress
from ntkcli.steps.shared.fitting import naming
from ntkcli.steps.shared.kept_tokens import KeptTokens
from ntkcli.steps.shared.non_finite import name_of, settle_non_finite
from ntkcli.steps.shared.row_sets import rows_in_order

if TYPE_CHECKING:
    from ntkcli.engine.features.extract import Begun, Extractor, Vectors

_PARTS_IN_FLIGHT = 4
"""Parts whose batches the device was given and that are not read yet, at most: of small models, whose batches are
short; a kill loses them, and they are in memory as float32."""


@dataclass(slots=True)
class FeatureLoop:
    """The loop over the parts of one artefact: encode the next part and write the last while this one computes."""

    artefact: store.Artefact
    file: DataFile
    chosen: NDArray[np.int64] | None
    row_status: NDArray[np.uint8]
    tokens: KeptTokens
    extractor: Extractor
    on_error: OnError
    progress: Progress
    vectors: str
    heads: dict[int, dict[str, NDArray[Any]]] = field(init=False, default_factory=dict)
    """Rows of pending parts that are there from before the data set grew, by part."""

    def run(self, pending: Sequence[int]) -> tuple[int, int]:
        """Compute the pending parts; returns the rows and tokens computed."""
        self.heads = {part: head for part in pending if (head := self.artefact.head(part)) is not None}
        found = self.artefact.rows_done() + sum(len(head["status"]) for head in self.heads.values())
        mine = sum(stop - start for start, stop in map(self._new_rows, pending))
        self.progress.start(self.artefact.name, total=found + mine, unit="rows", done=found)
        computed = tokens = 0
        begun: deque[tuple[_Part, Begun]] = deque()
        with ThreadPoolExecutor(1, "encode") as encoding, ThreadPoolExecutor(1, "write") as writing:
            write: Future[None] | None = None
            parts = self._parts(pending)
            upcoming = encoding.submit(self._next, parts)
            ended = False
            while not ended:
                part = upcoming.result()
                ended = part is None
                if part is not None:
                    upcoming = encoding.submit(self._next, parts)
                    begun.append((part, self._begin(part)))
                while begun and (ended or not begun[0][1].left or len(begun) > _PARTS_IN_FLIGHT):
                    done, values = self._finish(*begun.popleft())
                    if write is not None:
                        write.result()
                    write = writing.submit(self._write, done, values)
                    computed += len(done.rows)
                    tokens += done.tokens(values)
            if write is not None:
                write.result()
        self.progress.stop()
        return computed, tokens

    def _parts(self, pending: Sequence[int]) -> Iterator[tuple[int, list[Row | BadRow]]]:
        """The rows of each pending part, from one pass over the file that decodes no others."""
        bounds = [self._new_rows(number) for number in pending]
        positions = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(*bound) for bound in bounds)])
        wanted = positions if self.chosen is None else self.chosen[positions]
        stream = rows_in_order(self.file, wanted, self.row_status)
        for number, (start, stop) in zip(pending, bounds, strict=True):
            rows = list(islice(stream, stop - start))
            if len(rows) != stop - start:
                raise DataError(f"{self.file.path} ends before row {stop}: it changed during the run.", "Restore it.")
            yield number, rows

    def _new_rows(self, part: int) -> tuple[int, int]:
        """The rows [start, stop) of a part that are to be computed."""
        start, stop = self.artefact.part_bounds(part)
        return start + (len(self.heads[part]["status"]) if part in self.heads else 0), stop

    def _whole(self, part: int, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What was computed, behind the rows that were there."""
        if part not in self.heads:
            return arrays
        return {name: np.concatenate([self.heads[part][name], values]) for name, values in arrays.items()}

    def _next(self, parts: Iterator[tuple[int, list[Row | BadRow]]]) -> _Part | None:
        number_rows = next(parts, None)
        if number_rows is None:
            return None
        number, rows = number_rows
        encoded: list[Encoded | None] = []
        status = np.zeros(len(rows), dtype=np.uint8)
        for i, (row, found) in enumerate(self.tokens.encoded_rows(rows)):
            status[i] = self._status(row, found)
            encoded.append(found if isinstance(found, Encoded) else None)
        return _Part(number, rows, encoded, status)

    def _status(self, row: Row | BadRow, found: Encoded | RowError | None) -> int:
        """The row's status, with what the encoder made of it."""
        if isinstance(row, BadRow):
            return row.status
        if isinstance(found, RowError):
            if self.on_error == OnError.FAIL:
                raise DataError(
                    f"{row.place}: {found.reason}.",
                    "Fix the row, or give --on-error skip to leave such rows out.",
                ) from found
            return int(found.status)
        return int(store.RowStatus.TRUNCATED if found is not None and found.truncated else store.RowStatus.OK)

    @property
    def _held(self) -> dict[str, store.ArraySpec]:
        """The arrays that hold the vectors."""
        names = (self.vectors, feature_encoding.SCALE)
        return {name: self.artefact.arrays[name] for name in names if name in self.artefact.arrays}

    def _begin(self, part: _Part) -> Begun:
        """Hand the part's rows to the device. Rows that don't fit are named."""
        good = part.good
        self.progress.advance(len(part.rows) - len(good))
        rows = [row for row in part.encoded if row is not None]
        with naming([name_of(part.rows[i]) for i in good]):
            return self.extractor.begin(rows, on_batch=lambda r, t: self.progress.advance(r, tokens=t))

    def _finish(self, part: _Part, begun: Begun) -> tuple[_Part, Vectors]:
        """The part's values, of the rows that could be encoded. Those that are not finite are named."""
        found = self.extractor.finish(begun)
        if found.non_finite:
            bad = sorted(found.non_finite)
            layer = found.non_finite[bad[0]]
            settle_non_finite(
                "features",
                [part.rows[part.good[k]] for k in bad],
                on_error=self.on_error,
                progress=self.progress,
                began=f"; it began in {layer}" if layer else "",
            )
        return part, found

    def _write(self, part: _Part, found: Vectors) -> None:
        self.artefact.write_part(part.number, self._whole(part.number, self._arrays(part, found)))

    def _arrays(self, part: _Part, found: Vectors) -> dict[str, NDArray[Any]]:
        n, good = len(part.rows), part.good
        arrays: dict[str, NDArray[Any]] = {
            **{name: _unset(array, n) for name, array in self._held.items()},
            "norm": np.full(n, np.nan, dtype=np.float32),
            **{name: np.full(n, np.nan, dtype=np.float32) for name in self.extractor.loss_names},
            "tokens": np.zeros(n, dtype=np.int32),
            "status": part.status,
        }
        if self.chosen is not None:
            start, stop = self.artefact.part_bounds(part.number)
            arrays["row"] = self.chosen[start:stop]
        finite = np.array([k not in found.non_finite for k in range(len(good))], dtype=np.bool_)
        kept = np.array(good, dtype=np.int64)[finite]
        for name, values in feature_encoding.encode(
            found.unit[finite], self.vectors, self._held[self.vectors].dtype
        ).items():
            arrays[name][kept] = values
        for name, values in {"norm": found.norm, **found.losses}.items():
            arrays[name][kept] = values[finite]
        arrays["tokens"][kept] = [len(row) for i in kept if (row := part.encoded[i]) is not None]
        arrays["status"][[good[k] for k in found.non_finite]] = store.RowStatus.NON_FINITE
        return arrays


def _unset(array: store.ArraySpec, n: int) -> NDArray[Any]:
    """Rows that have no features: numbers 0, a scale NaN."""
    return np.zeros((n, *array.tail), array.numpy) if array.tail else np.full(n, np.nan, array.numpy)


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one part and their tokens; a row that has none is None, and `status` says why."""

    number: int
    rows: list[Row | BadRow]
    encoded: list[Encoded | None]
    status: NDArray[np.uint8]

    @property
    def good(self) -> list[int]:
        """The rows that could be encoded."""
        return [i for i, row in enumerate(self.encoded) if row is not None]

    def tokens(self, found: Vectors) -> int:
        """Of the rows that have finite values."""
        lengths = [len(row) for row in self.encoded if row is not None]
        return sum(length for k, length in enumerate(lengths) if k not in found.non_finite)
