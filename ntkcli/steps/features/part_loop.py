"""The loop over the parts of a features artefact: encode the next part and write the last while this one computes."""

from __future__ import annotations

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
from ntkcli.data import BadRow, DataFile, Encoded, Encoder, Row, RowError
from ntkcli.errors import DataError
from ntkcli.progress import Progress
from ntkcli.steps.shared.non_finite import name_of, settle_non_finite
from ntkcli.steps.shared.row_sets import rows_in_order

if TYPE_CHECKING:
    from ntkcli.engine.features.extract import Extractor, Vectors


@dataclass(slots=True)
class FeatureLoop:
    """The loop over the parts of one artefact: encode the next part and write the last while this one computes."""

    artefact: store.Artefact
    file: DataFile
    chosen: NDArray[np.int64] | None
    row_status: NDArray[np.uint8]
    encoder: Encoder
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
        with ThreadPoolExecutor(1, "encode") as encoding, ThreadPoolExecutor(1, "write") as writing:
            write: Future[None] | None = None
            parts = self._parts(pending)
            upcoming = encoding.submit(self._next, parts)
            while (part := upcoming.result()) is not None:
                upcoming = encoding.submit(self._next, parts)
                arrays = self._compute(part)
                if write is not None:
                    write.result()
                write = writing.submit(self.artefact.write_part, part.number, self._whole(part.number, arrays))
                computed += len(part.rows)
                tokens += int(arrays["tokens"].sum())
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
        for i, row in enumerate(rows):
            code, tokens = self._encode(row)
            status[i] = code
            encoded.append(tokens)
        return _Part(number, rows, encoded, status)

    def _encode(self, row: Row | BadRow) -> tuple[int, Encoded | None]:
        if isinstance(row, BadRow):
            return row.status, None
        try:
            encoded = self.encoder.encode(row)
        except RowError as error:
            if self.on_error == OnError.FAIL:
                raise DataError(
                    f"{row.place}: {error.reason}.",
                    "Fix the row, or give --on-error skip to leave such rows out.",
                ) from error
            return int(error.status), None
        return int(store.RowStatus.TRUNCATED if encoded.truncated else store.RowStatus.OK), encoded

    @property
    def _held(self) -> dict[str, store.ArraySpec]:
        """The arrays that hold the vectors."""
        names = (self.vectors, feature_encoding.SCALE)
        return {name: self.artefact.arrays[name] for name in names if name in self.artefact.arrays}

    def _compute(self, part: _Part) -> dict[str, NDArray[Any]]:
        n = len(part.rows)
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
        good = [i for i, row in enumerate(part.encoded) if row is not None]
        self.progress.advance(n - len(good))
        found = self._vectors(part, good)
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

    def _vectors(self, part: _Part, good: Sequence[int]) -> Vectors:
        """Of the rows that could be encoded, `good`. Rows that don't fit, or are not finite, are named."""
        from ntkcli.engine.memory import DoesNotFitError

        rows = [row for row in part.encoded if row is not None]
        try:
            found = self.extractor.vectors(rows, on_batch=lambda r, t: self.progress.advance(r, tokens=t))
        except DoesNotFitError as error:
            raise error.named(name_of(part.rows[good[error.row]])) from error
        if found.non_finite:
            bad = sorted(found.non_finite)
            layer = found.non_finite[bad[0]]
            settle_non_finite(
                "features",
                [part.rows[good[k]] for k in bad],
                on_error=self.on_error,
                progress=self.progress,
                began=f"; it began in {layer}" if layer else "",
            )
        return found


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
