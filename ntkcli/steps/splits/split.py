"""Split a data file into sides that share no near-duplicates and no groups, as JSONL files. Never imports torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import OnError
from ntkcli.data import DataFile, Row, scan
from ntkcli.errors import UsageError
from ntkcli.progress import Progress, Silent, counted_below
from ntkcli.seeds import check_seed
from ntkcli.selection.partition import assign
from ntkcli.steps.shared.row_sets import rows_in_order
from ntkcli.steps.splits.facts import Facts
from ntkcli.steps.splits.files import check_targets, encode_row, targets, write_all

VERSION: Final = 1
"""Of the division, in every order of parts: goes up when the same rows would be divided otherwise."""
OFF: Final = 0.25
"""How far from the share asked for a side may be before a note says so."""
Ints = NDArray[np.int64]
Answers: TypeAlias = tuple[Sequence[str], Ints] | None
"""All answers, and which of them each row has (n,); None where rows have none."""


@dataclass(frozen=True, slots=True)
class Side:
    """One file: its rows, the parts that stay together among them, and how many rows have each answer."""

    name: str
    file: str
    rows: int
    parts: int
    answers: dict[str, int]


@dataclass(frozen=True, slots=True)
class SplitResult:
    """The files, and what was divided: `parts` that stay together, the `largest` with this many rows.

    `duplicates` rows say what another row says; `groups` are the values of `by`. `written` is false if all files were
    there already with the same bytes.
    """

    data: str
    rows: int
    skipped: int
    parts: int
    largest: int
    duplicates: int
    by: str | None
    groups: int | None
    stratified: bool
    seed: int
    sides: tuple[Side, ...]
    written: bool


def split(
    data: str,
    *,
    test: float | None = None,
    folds: int | None = None,
    by: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    label: str | None = None,
    columns: Mapping[str, str] | None = None,
    split_name: str | None = None,
    on_error: OnError = OnError.FAIL,
    force: bool = False,
    progress: Progress | None = None,
) -> SplitResult:
    """Write `<label>.train.jsonl` and `<label>.test.jsonl` next to `data` or in `out`; with `folds` one pair per fold.

    Rows that say the same (`ntkcli.selection.likeness`) or hold the same value in the column `by` stay together. Where
    rows have choices, each side gets each answer's share. Which row goes where depends on the rows' content and the
    seed, not on their order; files keep the order of `data`. `label` is by default the name of `data`.

    Raises:
        UsageError: a request that can't be met, or a file that is there with other rows and no `force`.
        DataError: rows that can't be read, unless `on_error` is "skip".
    """
    progress = progress or Silent()
    shares = _shares(test, folds)
    files = targets(data, label=label, out=out, folds=folds)
    found = divide(
        data, shares=shares, by=by, seed=seed, sort=folds is not None, columns=columns, split_name=split_name,
        on_error=on_error, progress=progress,
    )  # fmt: skip
    contents: dict[Path, Ints] = {}
    names: dict[Path, str] = {}
    for number, (train, held_out) in enumerate(files):
        contents[train], contents[held_out] = np.flatnonzero(found.side != number), np.flatnonzero(found.side == number)
        fold = f"fold {number + 1} " if folds else ""
        names[train], names[held_out] = f"{fold}train", f"{fold}test"
    check_targets(list(contents), data=data, file=found.file)
    written = write_all({path: partial(found.lines, where) for path, where in contents.items()}, force=force)
    return SplitResult(
        data=found.file.reference,
        rows=len(found.side),
        skipped=found.skipped,
        parts=int(found.parts.max()) + 1,
        largest=int(np.bincount(found.parts).max()),
        duplicates=found.duplicates,
        by=by,
        groups=found.groups,
        stratified=found.answers is not None,
        seed=seed,
        sides=tuple(_side(names[path], path, where, found.parts, found.answers) for path, where in contents.items()),
        written=written,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """The side and the part of each row (n,) int64; rows of a part are on one side. `digests` (n, 32) are the rows'.

    `answers` are all answers and which of them each row has (n,); `duplicates` rows say what another row says.
    """

    side: Ints
    parts: Ints
    digests: NDArray[np.uint8]
    answers: Answers
    duplicates: int
    groups: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Division(Sides):
    """Also the file, and where in it the usable rows are, `at` (n,); they are read again for `lines`."""

    file: DataFile
    status: NDArray[np.uint8]
    at: Ints
    skipped: int

    def lines(self, where: Ints) -> Iterator[bytes]:
        """These rows (ascending) as lines of JSON. DataError if the file has changed."""
        for row in rows_in_order(self.file, self.at[where], self.status):
            if isinstance(row, Row):
                yield encode_row(row.raw)


def divide(
    data: str, *, shares: Sequence[float], by: str | None, seed: int, sort: bool, columns: Mapping[str, str] | None,
    split_name: str | None, on_error: OnError, progress: Progress,
) -> Division:  # fmt: skip
    """The side of each row of `data`, by `shares`; nothing is written. Other arguments and errors are `split`'s.

    The file is read twice, and no row is kept.
    """
    check_seed("--seed", seed)
    file = DataFile(data, columns=columns, split=split_name)
    file.watch()
    scanned = scan(file, on_error=on_error)
    at = np.flatnonzero(scanned.status < store.RowStatus.UNREADABLE)
    rows = (row for row in rows_in_order(file, at, scanned.status) if isinstance(row, Row))
    sides = _sides(counted_below(rows, "rows", len(at)), shares=shares, by=by, seed=seed, sort=sort)
    _note_shares(sides.side, shares, sides.parts, progress)
    return Division(
        sides.side, sides.parts, sides.digests, sides.answers, sides.duplicates, sides.groups, file, scanned.status, at,
        scanned.n_bad,
    )  # fmt: skip


def folds_of(rows: Iterable[Row], folds: int, *, by: str | None, seed: int = 0) -> Ints:
    """The fold of each row (n,), from 0, as `split` with so many `folds` has it. UsageError as there."""
    return _sides(rows, shares=_shares(None, folds), by=by, seed=seed, sort=True).side


def _sides(rows: Iterable[Row], *, shares: Sequence[float], by: str | None, seed: int, sort: bool) -> Sides:
    facts = Facts(by)
    for row in rows:
        facts.add(row)
    parts, duplicates, groups = facts.parts()
    digests, answers = facts.digests, facts.answers()
    side = _divide(digests, parts, answers, shares=shares, seed=seed, by=by, sort=sort)
    return Sides(side, parts, digests, answers, duplicates, groups)


def _shares(test: float | None, folds: int | None) -> list[float]:
    """The share of the test side of each fold; for one split the test side and the rest."""
    if (test is None) == (folds is None):
        raise UsageError("Say how to split, in one way.", "Give --test SHARE, as .2, or --folds K, as 5.")
    if folds is not None:
        if folds < 2:
            raise UsageError(f"--folds {folds} is too few.", "Give 2 or more.")
        return [1 / folds] * folds
    if test is None or not (math.isfinite(test) and 0 < test < 1):
        raise UsageError(f"--test {test}: not a share of the rows.", "Give a number above 0 and below 1, as .2.")
    return [test, 1 - test]


def _divide(
    digests: NDArray[np.uint8],
    parts: Ints,
    answers: Answers,
    *,
    shares: Sequence[float],
    seed: int,
    by: str | None,
    sort: bool,
) -> Ints:
    """The side of each row (n,): the test side or the fold, else the last one. Parts come in an order of their content.

    `sort`: the largest first, so that folds are of one size.
    """
    n, n_parts = len(parts), int(parts.max()) + 1
    if n_parts < len(shares):
        why = f"near-duplicates and --by {by}" if by else "near-duplicates"
        raise UsageError(
            f"{len(shares)} sides of {n} rows are asked for, and these make {n_parts} parts that stay together "
            f"({why}).",
            "Give fewer folds, or more varied rows.",
        )
    if min(shares) * n < 0.5:
        raise UsageError(f"{min(shares):.3g} of {n} rows is less than one row.", "Give a larger share, or fewer folds.")
    keys = _keys_of_parts(digests, parts, seed)
    sizes = np.bincount(parts, minlength=n_parts)
    order = np.lexsort((*_columns(keys), -sizes if sort else np.zeros_like(sizes)))
    known, stratum = answers or ([""], np.zeros(n, dtype=np.int64))
    counts = np.zeros((n_parts, len(known)), dtype=np.int64)
    np.add.at(counts, (parts, stratum), 1)
    side = np.empty(n_parts, dtype=np.int64)
    side[order] = assign(counts[order], shares)
    return side[parts]


def _keys_of_parts(digests: NDArray[np.uint8], parts: Ints, seed: int) -> NDArray[np.uint8]:
    """A digest of each part (parts, 32): of the seed and the digests of its rows, sorted."""
    order = np.lexsort((*_columns(digests), parts))
    stops = np.cumsum(np.bincount(parts)).tolist()
    keys, start = bytearray(), 0
    for stop in stops:
        inside = "|".join(digest.tobytes().hex() for digest in digests[order[start:stop]])
        keys += hashlib.sha256(f"{VERSION}|{seed}|{inside}".encode()).digest()
        start = stop
    return np.frombuffer(bytes(keys), dtype=np.uint8).reshape(-1, digests.shape[1])


def _columns(digests: NDArray[np.uint8]) -> list[NDArray[np.uint64]]:
    """Of digests (n, 32) the numbers by which lexsort has them in the order of their digits, the last one first."""
    return list(np.ascontiguousarray(digests).view(">u8").T[::-1].astype(np.uint64))


def _note_shares(side: Ints, shares: Sequence[float], parts: Ints, progress: Progress) -> None:
    """Say so where parts are so large that a side is far from the share asked for."""
    rows = np.bincount(side, minlength=len(shares))
    worst = int(np.argmax(np.abs(rows / len(side) - shares)))
    if abs(rows[worst] - shares[worst] * len(side)) > max(1, OFF * shares[worst] * len(side)):
        progress.note(
            f"a side has {rows[worst] / len(side):.0%} of the rows instead of {shares[worst]:.0%}: parts that stay "
            f"together have up to {np.bincount(parts).max()} rows"
        )


def _side(name: str, path: Path, where: Ints, parts: Ints, answers: Answers) -> Side:
    counted: dict[str, int] = {}
    if answers is not None:
        texts, code = answers
        counts = np.bincount(code[where], minlength=len(texts)).tolist()
        counted = {text: count for text, count in zip(texts, counts, strict=True) if count}
    return Side(name, str(path), len(where), len(np.unique(parts[where])), counted)
