"""One pass over a data set that finds its digest, ids, labels and every problem. Memory: five bytes a row.

Must not know tokenizers. Ids stand on disk meanwhile (`ntkcli.data.spool`).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ntkcli.choices import OnError
from ntkcli.data.columns import renamed
from ntkcli.data.files import DataFile
from ntkcli.data.problems import BAD_KEPT, none_usable, refusal
from ntkcli.data.rows import BadRow, Row, canonical_row, own_id
from ntkcli.data.spool import OwnIds, RowIds, Rows
from store import RowStatus


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What is in a file, row by row.

    `digest` is 64 hex digits over the rows' content, whatever the file format, column names and key order;
    `source_codes` (n,) int32 are positions in `sources`, which stand in order of first appearance; `status`
    (n,) uint8 holds RowStatus; `bad` keeps the first 20 of `n_bad`. A bad row has the id "" and the label "". `head` is
    what the digest would be if the file ended after the rows that were asked for; None if it has fewer.
    """

    n: int
    digest: str
    schema: str
    row_ids: RowIds
    sources: list[str]
    source_codes: npt.NDArray[np.int32]
    status: npt.NDArray[np.uint8]
    bad: tuple[BadRow, ...]
    n_bad: int
    head: str | None = None


def scan(file: DataFile, *, on_error: OnError, folder: Path | None = None, head_rows: int = -1) -> Scan:
    """Read the whole file. DataError naming the bad rows, if `on_error` is "fail" or no row can be used.

    A file in which ids stand twice is read twice. `folder` takes what is kept on disk meanwhile; by default the
    system's for temporary files. `head_rows`: of so many rows give the digest too.
    """
    found = _Pass(folder, head_rows)
    for row in file.rows():
        found.add(row, own=_own_id(row, file))
    rows, firsts = found.own_ids.repeated()
    if len(rows):
        found = _Pass(folder, head_rows)
        for row in _without_repeated(file, rows, firsts):
            found.add(row)
    if found.n_bad == len(found.row_ids):
        raise none_usable(found.bad, found.n_bad)
    if found.bad and on_error == OnError.FAIL:
        raise refusal(found.bad, found.n_bad)
    return Scan(
        n=len(found.row_ids),
        digest=found.digest.hexdigest(),
        schema=file.schema.name,
        row_ids=found.row_ids,
        sources=list(found.sources),
        source_codes=np.frombuffer(found.codes, dtype=np.int32),
        status=np.frombuffer(found.status, dtype=np.uint8),
        bad=tuple(found.bad),
        n_bad=found.n_bad,
        head=found.head,
    )


class _Pass:
    """What has been found so far."""

    def __init__(self, folder: Path | None, head_rows: int) -> None:
        self.head_rows = head_rows
        self.head: str | None = None
        self.row_ids, self.own_ids = RowIds(folder), OwnIds(folder)
        self.digest = hashlib.sha256()
        self.codes, self.status = array("i"), bytearray()
        self.sources: dict[str, int] = {}
        self.bad: list[BadRow] = []
        self.n_bad = 0

    def add(self, row: Row | BadRow, *, own: str | None = None) -> None:
        """Take the next row in; `own` is the id that it brings itself."""
        if isinstance(row, Row):
            row_id, source, status = row.row_id, row.source, int(RowStatus.OK)
            content = canonical_row(row)
        else:
            row_id, source, status = "", "", row.status
            content = f"bad {row.digest}".encode()
            self.n_bad += 1
            if len(self.bad) < BAD_KEPT:
                self.bad.append(row)
        self.digest.update(content + b"\n")
        self.row_ids.append(row_id)
        if len(self.row_ids) == self.head_rows:
            self.head = self.digest.hexdigest()
        self.own_ids.append(own)
        self.status.append(status)
        self.codes.append(self.sources.setdefault(source, len(self.sources)))


def _own_id(row: Row | BadRow, file: DataFile) -> str | None:
    return own_id(renamed(row.raw, file.columns)) if isinstance(row, Row) else None


def _without_repeated(file: DataFile, repeated: Rows, firsts: Rows) -> Iterator[Row | BadRow]:
    """All rows, those that are `repeated` (ascending) as bad ones. Equal rows without an id may repeat."""
    told = _Places(firsts[:BAD_KEPT].tolist())
    at = 0
    for row in file.rows():
        told.see(row)
        if at == len(repeated) or row.index != repeated[at]:
            yield row
            continue
        if not isinstance(row, Row):
            raise RuntimeError(f"{file.path} changed while it was read")
        where, at = told.of(row, int(firsts[at])), at + 1
        digest = hashlib.sha256(canonical_row(row)).hexdigest()
        reason = f"the id {row.row_id!r} stands already{where}"
        yield BadRow(row.index, row.line, reason, int(RowStatus.UNREADABLE), digest, row.file, row.unit)


@dataclass(slots=True)
class _Places:
    """Where some rows stand, seen as they pass: those that messages will name."""

    wanted: list[int]
    seen: dict[int, Row | BadRow] = field(default_factory=dict)

    def see(self, row: Row | BadRow) -> None:
        if row.index in self.wanted:
            self.seen[row.index] = BadRow(row.index, row.line, "", 0, "", row.file, row.unit)

    def of(self, row: Row, first: int) -> str:
        """ " in line 1", " in line 1 of a.jsonl", or nothing where no message will name it."""
        if (place := self.seen.get(first)) is None:
            return ""
        return f" in {place.unit} {place.line}" + ("" if place.file == row.file else f" of {place.file}")
