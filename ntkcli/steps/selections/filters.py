"""Which scored rows may be chosen at all: lists of ids, lengths and repeated texts. Each filter is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data.ids import ID_COLUMNS, listed_ids
from ntkcli.errors import UsageError
from ntkcli.progress import Progress, counted
from ntkcli.selection.duplicates import first_of_each
from ntkcli.steps.scores.inputs import texts_of
from ntkcli.steps.shared.row_ids import RowIds, rows_of_ids
from store import layout

Rows = NDArray[np.int64]
SHOWN = 5
"""Ids that a message names."""
UNKNOWN_KEPT = 20
"""Ids that name no row, kept for reports."""


@dataclass(slots=True)
class Eligible:
    """The pool's rows that are left (ascending int64), and how many each option took out, in order."""

    rows: Rows
    removed: dict[str, int] = field(default_factory=dict)

    def keep(self, mask: NDArray[np.bool_], option: str) -> None:
        """Leave only the rows where `mask` (over `rows`) holds."""
        self.removed[option] = self.removed.get(option, 0) + int((~mask).sum())
        self.rows = self.rows[mask]

    def binding(self) -> str:
        """What took rows out, for messages: `--dedup exact took 12, --exclude took 3`."""
        took = [f"{option} took {count}" for option, count in self.removed.items() if count]
        return ", ".join(took)


@dataclass(frozen=True, slots=True)
class Listed:
    """How many ids the files of an option list, how many are rows of the pool, and the first `unknown` ones.

    `headers` are first lines that were taken for a header.
    """

    option: str
    ids: int
    matched: int
    unknown: tuple[str, ...]
    headers: tuple[str, ...] = ()

    def told(self) -> str:
        """What was found, as a sentence: `--exclude: 3 of 5 ids are rows of the pool; unknown: 'a', 'b'`."""
        if not self.ids:
            return f"{self.option}: the files list no id"
        lack = self.ids - self.matched
        text = f"{self.option}: {self.matched} of {self.ids} ids are rows of the pool"
        text += f"; unknown: {_named(self.unknown, lack)}" if lack else ""
        return text + (f"; taken as header: {_named(self.headers, len(self.headers))}" if self.headers else "")


def listed_rows(
    stored: store.Store, dataset: store.Artefact, paths: Sequence[str | Path], *, option: str, strict: bool
) -> tuple[Rows, Listed]:
    """The pool's rows (ascending) that selections of the store and files name (`ntkcli.data.ids`), and the count.

    Raises:
        UsageError: a file is missing, names no row of the pool at all or, if `strict`, names one that it doesn't have.
        DataError: a file can't be read.
    """
    if not paths:
        return np.array([], dtype=np.int64), Listed(option, 0, 0, ())
    columns = dataset.attrs.get("columns") or {}
    lists = {
        path: list(listed_ids(str(path), option=option, columns=columns))
        for path in paths
        if not names_selection(stored, path)
    }
    position = rows_of_ids(dataset, {form for listed in lists.values() for each in listed for form in each.forms})
    found: set[int] = set()
    unknown: list[str] = []
    headers: list[str] = []
    matched = 0
    for path in paths:
        if path not in lists:
            chosen = _selected(stored, dataset, str(path), option)
            found.update(chosen.tolist())
            matched += len(chosen)
            continue
        before, lacking = matched, len(unknown)
        for listed in lists[path]:
            row = next((position[form] for form in listed.forms if form in position), None)
            if row is not None:
                found.add(row)
                matched += 1
            elif not listed.maybe_header:
                unknown.append(listed.forms[0])
            elif listed.forms[0] not in ID_COLUMNS:
                headers.append(listed.forms[0])
        lacks = unknown[lacking:]
        if lacks and (strict or matched == before):
            raise _unknown(dataset, option, path, lacks, known=matched - before, strict=strict)
    listed_here = Listed(option, matched + len(unknown), matched, tuple(unknown[:UNKNOWN_KEPT]), tuple(headers))
    return np.array(sorted(found), dtype=np.int64), listed_here


def names_selection(stored: store.Store, reference: str | Path) -> bool:
    """Whether this is the name of a selection of the store; `./NAME` is always a file."""
    return layout.is_name(str(reference)) and stored.find(f"selections/{reference}") is not None


def _selected(stored: store.Store, dataset: store.Artefact, name: str, option: str) -> Rows:
    artefact, pool = stored.get(f"selections/{name}"), dataset.name.partition("/")[2]
    if artefact.attrs["data"] != pool:
        raise UsageError(
            f"{option} {name}: it selects rows of {artefact.attrs['data']!r}, not of {pool!r}.",
            "Give a selection of the same pool, or a file.",
        )
    stored.check_parents(artefact)
    rows: Rows = artefact.read("row")
    return rows


def _unknown(
    dataset: store.Artefact, option: str, path: str | Path, lacks: Sequence[str], *, known: int, strict: bool
) -> UsageError:
    pool = dataset.name.partition("/")[2]
    example = next((row_id for row_id in RowIds(dataset) if row_id), "")
    if not known:
        return UsageError(
            f"{option} {path}: none of its {len(lacks)} ids is in the pool {pool!r}: {_named(lacks, len(lacks))}.",
            f"Give ids as the pool has them, such as {example!r} (`ntksel select ... --export-scores` lists them all).",
        )
    return UsageError(
        f"{option} {path}: the pool {pool!r} has no row with the id {_named(lacks, len(lacks))}.",
        "Name rows of the pool only." if strict else "",
    )


def _named(ids: Sequence[str], count: int) -> str:
    shown = ", ".join(map(repr, ids[:SHOWN]))
    return shown if count <= SHOWN else f"{shown} and {count - SHOWN} more"


def keep_lengths(eligible: Eligible, lengths: Rows, *, min_tokens: int | None, max_tokens: int | None) -> None:
    """Leave only rows with a length in tokens inside the bounds, both included; `lengths` (n,) of the whole pool."""
    tokens = lengths[eligible.rows]
    if min_tokens is not None:
        eligible.keep(tokens >= min_tokens, "--min-tokens")
        tokens = tokens[tokens >= min_tokens]
    if max_tokens is not None:
        eligible.keep((tokens <= max_tokens) & (tokens > 0), "--max-tokens")


def keep_first_of_repeats(
    eligible: Eligible, stored: store.Store, data: str, *, near: bool, order: Rows, first: Rows, progress: Progress
) -> None:
    """Of texts that repeat, leave the one that stands first in `first`, then in `order` (rows, best first).

    Memory: 40 bytes for each eligible row, and with `near` 400 for each that stays; the words are on disk meanwhile.
    """
    total, unit = len(eligible.rows), "rows"
    texts = counted(texts_of(stored, data, eligible.rows)(), progress, "texts", total=total, unit=unit)
    asked = np.concatenate([first, order[np.isin(order, eligible.rows) & ~np.isin(order, first)]]).tolist()
    there = counted(asked, progress, "repeated rows", total=len(asked), unit=unit)
    kept, _ = first_of_each(texts, there, near=near)
    eligible.keep(np.isin(eligible.rows, kept), f"--dedup {'minhash' if near else 'exact'}")
