"""Split a data file into sides that share no near-duplicates and no groups, as JSONL files. Never imports torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ntkcli.choices import OnError
from ntkcli.data import DataFile, Row, scan
from ntkcli.data.columns import lookup
from ntkcli.data.rows import column_names, content_digest
from ntkcli.errors import UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.seeds import check_seed
from ntkcli.selection.likeness import join_alike
from ntkcli.selection.partition import Components, assign
from ntkcli.steps.shared.row_sets import rows_in_order
from ntkcli.steps.splits.files import check_targets, targets, write_all
from ntkcli.steps.splits.overlap import prompt_of, words_of

VERSION: Final = 1
"""Of the division, in every order of parts: goes up when the same rows would be divided otherwise."""
OFF: Final = 0.25
"""How far from the share asked for a side may be before a note says so."""
Ints = NDArray[np.int64]


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
    written = write_all({path: [found.rows[i].raw for i in where] for path, where in contents.items()}, force=force)
    return SplitResult(
        data=found.file.reference,
        rows=len(found.rows),
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
class Division:
    """The usable rows of a file and the side of each: `side` (n,) and `parts` (n,) int64, parts stay together."""

    file: DataFile
    rows: Sequence[Row]
    side: Ints
    parts: Ints
    answers: Sequence[str] | None
    duplicates: int
    groups: int | None
    skipped: int


def divide(
    data: str, *, shares: Sequence[float], by: str | None, seed: int, sort: bool, columns: Mapping[str, str] | None,
    split_name: str | None, on_error: OnError, progress: Progress,
) -> Division:  # fmt: skip
    """The side of each row of `data`, by `shares`; nothing is written. Other arguments and errors are `split`'s."""
    check_seed("--seed", seed)
    file = DataFile(data, columns=columns, split=split_name)
    scanned = scan(file, on_error=on_error)
    rows = [row for row in rows_in_order(file, None, scanned.status) if isinstance(row, Row)]
    side, parts, answers, duplicates, groups = _sides(rows, shares=shares, by=by, seed=seed, sort=sort)
    _note_shares(side, shares, parts, progress)
    return Division(file, rows, side, parts, answers, duplicates, groups, scanned.n_bad)


def folds_of(rows: Sequence[Row], folds: int, *, by: str | None, seed: int = 0) -> Ints:
    """The fold of each row (n,), from 0, as `split` with so many `folds` has it. UsageError as there."""
    return _sides(rows, shares=_shares(None, folds), by=by, seed=seed, sort=True)[0]


def _sides(
    rows: Sequence[Row], *, shares: Sequence[float], by: str | None, seed: int, sort: bool
) -> tuple[Ints, Ints, Sequence[str] | None, int, int | None]:
    """The side and the part of each row, its answer, how many rows say what another says, how many groups there are."""
    parts, duplicates, groups = _parts(rows, by)
    answers = _answers(rows)
    side = _divide(rows, parts, answers, shares=shares, seed=seed, by=by, sort=sort)
    return side, parts, answers, duplicates, groups


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


def _parts(rows: Sequence[Row], by: str | None) -> tuple[Ints, int, int | None]:
    """The part of each row (n,), how many rows say what another says, and how many values `by` has."""
    found = Components(len(rows))
    join_alike(found, [words_of(row) for row in rows], [prompt_of(row) for row in rows])
    sizes = Counter(found.labels().tolist())
    duplicates = sum(size for size in sizes.values() if size > 1)
    if by is None:
        return found.labels(), duplicates, None
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        is_there, value = lookup(row.raw, by)
        if is_there and value is not None and value != "":
            key = value if isinstance(value, str) else json.dumps(value, sort_keys=True)  # 7 and "7" are one group
            found.join(i, first.setdefault(key, i))
    if not first:
        raise UsageError(f"--by {by}: no row has that column.", f"The first has: {column_names(rows[0].raw)}.")
    return found.labels(), duplicates, len(first)


def _answers(rows: Sequence[Row]) -> list[str] | None:
    """The right answer of each row: its text where all rows have the same choices, else its letter; None without."""
    if not all(row.choices and row.answer is not None for row in rows):
        return None
    alike = len({frozenset(row.choices) for row in rows}) == 1
    found = [row.choices[row.answer or 0] if alike else chr(ord("A") + (row.answer or 0)) for row in rows]
    return found if len(set(found)) > 1 else None


def _divide(
    rows: Sequence[Row],
    parts: Ints,
    answers: Sequence[str] | None,
    *,
    shares: Sequence[float],
    seed: int,
    by: str | None,
    sort: bool,
) -> Ints:
    """The side of each row (n,): the test side or the fold, else the last one. Parts come in an order of their content.

    `sort`: the largest first, so that folds are of one size.
    """
    n_parts = int(parts.max()) + 1
    if n_parts < len(shares):
        why = f"near-duplicates and --by {by}" if by else "near-duplicates"
        raise UsageError(
            f"{len(shares)} sides of {len(rows)} rows are asked for, and these make {n_parts} parts that stay together "
            f"({why}).",
            "Give fewer folds, or more varied rows.",
        )
    if min(shares) * len(rows) < 0.5:
        raise UsageError(
            f"{min(shares):.3g} of {len(rows)} rows is less than one row.", "Give a larger share, or fewer folds."
        )
    inside: list[list[str]] = [[] for _ in range(n_parts)]
    for part, row in zip(parts.tolist(), rows, strict=True):
        inside[part].append(content_digest(row))
    keys = [hashlib.sha256(f"{VERSION}|{seed}|{'|'.join(sorted(digests))}".encode()).hexdigest() for digests in inside]
    order = sorted(range(n_parts), key=lambda part: (-len(inside[part]) if sort else 0, keys[part]))
    known = sorted(set(answers)) if answers else [""]
    strata = np.array([known.index(answer) for answer in answers] if answers else [0] * len(rows), dtype=np.int64)
    counts = np.zeros((n_parts, len(known)), dtype=np.int64)
    np.add.at(counts, (parts, strata), 1)
    side = np.empty(n_parts, dtype=np.int64)
    side[order] = assign(counts[order], shares)
    return side[parts]


def _note_shares(side: Ints, shares: Sequence[float], parts: Ints, progress: Progress) -> None:
    """Say so where parts are so large that a side is far from the share asked for."""
    rows = np.bincount(side, minlength=len(shares))
    worst = int(np.argmax(np.abs(rows / len(side) - shares)))
    if abs(rows[worst] - shares[worst] * len(side)) > max(1, OFF * shares[worst] * len(side)):
        progress.note(
            f"a side has {rows[worst] / len(side):.0%} of the rows instead of {shares[worst]:.0%}: parts that stay "
            f"together have up to {np.bincount(parts).max()} rows"
        )


def _side(name: str, path: Path, where: Ints, parts: Ints, answers: Sequence[str] | None) -> Side:
    counted = Counter(answers[i] for i in where) if answers else Counter[str]()
    return Side(name, str(path), len(where), len(np.unique(parts[where])), dict(sorted(counted.items())))
