"""The rows of a fine-tuning: sets mixed by weight, some held out, all encoded once. Never imports torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import OnError
from ntkcli.data import BadRow, Encoded, Encoder, Row, RowError
from ntkcli.data.problems import BAD_KEPT, refusal, unusable
from ntkcli.data.references import split_weight
from ntkcli.errors import DataError, UsageError
from ntkcli.steps.shared.datasets import data_sets_of, moved_data
from ntkcli.steps.shared.row_sets import RowSet, resolve_rows

MOST_TIMES = 100
"""Of a row in an epoch: a larger number is a mistaken count of rows."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """One set of a mix: its rows, and how often an epoch holds each of them; a fraction is drawn, once, by the seed."""

    rows: RowSet
    times: float

    @property
    def spec(self) -> dict[str, Any]:
        """What the set is; with its weight, unless that is 1."""
        return self.rows.spec if self.times == 1 else {**self.rows.spec, "times": self.times}

    def drawn(self, seed: int) -> tuple[RowSet, NDArray[np.int64]]:
        """The set cut to the rows that are drawn, and how often each is in (int64, in their order).

        Rows that can't be read are not drawn. A smaller weight's rows are among a larger one's.
        """
        copies, share = int(self.times), self.times - int(self.times)
        status = self.rows.status
        every = np.arange(len(status)) if self.rows.rows is None else self.rows.rows
        if not share:
            return self.rows, np.full(len(every), copies)
        readable = every[status[every] < store.RowStatus.UNREADABLE]
        salt = f"{seed}|{store.fingerprint(self.rows.spec)}"
        draws = np.array([_draw(f"{salt}|{row}".encode()) for row in readable.tolist()], dtype=np.uint64)
        extra = np.argsort(draws, kind="stable")[: _round(share * len(readable))]
        counts = np.full(len(readable), copies)
        counts[extra] += 1
        return replace(self.rows, rows=readable[counts > 0]), counts[counts > 0]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Encoded rows and how to use them: `train` (n,) int64, positions in `rows`, repeats allowed; `held_out` the same.

    `names` say where each row stands; `sets` count rows, with repeats, set by set, and `stages` count those of `train`
    stage by stage.
    """

    rows: Sequence[Encoded]
    names: Sequence[str]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    sets: Sequence[int]
    skipped: int
    stages: Sequence[int] = ()

    def counts(self) -> dict[str, Any]:
        """Numbers for the run's attributes and its result."""
        return {
            "rows": len(self.train),
            "truncated": sum(row.truncated for row in self.rows),
            "skipped": self.skipped,
            "held_out": len(self.held_out),
            "set_rows": list(self.sets),
        }


def parse_train(text: str, option: str = "--train") -> tuple[str, float]:
    """`REF` or `REF=N`: the reference, and how often an epoch holds each of its rows.

    Raises:
        UsageError: N is no number above 0 and up to 100.
    """
    reference, number = split_weight(text)
    if number is None:
        return text, 1.0
    try:
        times = float(number)
    except ValueError:
        times = math.nan
    if not 0 < times <= MOST_TIMES:
        raise UsageError(
            f"{option} {text}: {number!r} is not a valid weight.",
            f"Give a number above 0 and up to {MOST_TIMES}: 0.5 draws half of the rows, 2 takes each twice. To take a "
            "number of rows, select them first (`ntksel select -n`).",
        )
    return reference, times


def resolve_train(
    stored: store.Store | None,
    train: Sequence[str],
    *,
    columns: Mapping[str, str] | None,
    split: str | None,
    on_error: OnError,
    data: Sequence[str] = (),
    option: str = "--train",
) -> list[TrainingSet]:
    """What the values of `--train` (or another `option`) stand for; without a store, files alone.

    `data`: as `moved_data` takes it.
    """
    sets = []
    if stored is not None and data:
        known = [name for text in train for name in data_sets_of(stored, parse_train(text)[0])]
        moved_data(stored, data, default=known)
    for text in train:
        reference, times = parse_train(text, option)
        rows = resolve_rows(stored, reference, option=option, columns=columns, split=split, on_error=on_error)
        sets.append(TrainingSet(rows, times))
    return sets


def encode_training(
    sets: Sequence[TrainingSet], encoder: Encoder, *, seed: int, hold_out: float, on_error: OnError,
    first_stage: int | None = None,
) -> TrainingData:  # fmt: skip
    """The rows of all sets that have an answer to learn, encoded; a share of them held out.

    The first `first_stage` sets are a stage of their own, before the others. Rows are held out by what they hold, so
    that copies of one are never on both sides.

    Raises:
        DataError: a row can't be encoded (`on_error` "fail"), or too few are left to train on or to hold out.
    """
    rows: list[Encoded] = []
    names: list[str] = []
    uses: list[NDArray[np.int64]] = []
    bad: list[BadRow] = []
    skipped = 0
    for one in sets:
        drawn, times = one.drawn(seed)
        if not len(times):
            raise DataError(
                f"--train {one.rows.label}={one.times:g}: that share draws none of its rows.", "Give a larger one."
            )
        positions: list[int] = []
        for row, count in zip(drawn, times.tolist(), strict=True):
            encoded = None if isinstance(row, BadRow) else _encode(encoder, row, bad)
            if encoded is None:  # a bad row was scanned before: only left in where these may be skipped
                skipped += 1
                continue
            positions += [len(rows)] * count
            rows.append(encoded)
            names.append(f"{row.place} (id {row.row_id})")  # type: ignore[union-attr]  # no BadRow, by the line above
        uses.append(np.array(positions, dtype=np.int64))
    if bad and on_error == OnError.FAIL:
        raise refusal(bad[:BAD_KEPT], len(bad))
    labels = ", ".join(one.rows.label for one in sets)
    if not rows:
        raise DataError(
            f"--train {labels}: no row has an answer to learn.", "Give rows with completions, or more of them."
        )
    held = _held_out(rows, hold_out, seed, labels)
    kept = [use[~np.isin(use, held)] for use in uses]
    counts = [len(use) for use in kept]
    stages = () if first_stage is None else (sum(counts[:first_stage]), sum(counts[first_stage:]))
    return TrainingData(rows, names, np.concatenate(kept), held, counts, skipped, stages)


def _encode(encoder: Encoder, row: Row, bad: list[BadRow]) -> Encoded | None:
    """The row's tokens; None if it has nothing to learn, or can't be encoded and so goes to the `bad` ones."""
    try:
        encoded = encoder.encode(row)
    except RowError as error:
        bad.append(unusable(row, error))
        return None
    return encoded if encoded.supervised.any() else None


def _held_out(rows: Sequence[Encoded], share: float, seed: int, labels: str) -> NDArray[np.int64]:
    """Positions of the rows held out: the first by a hash of seed and content, until the share is reached."""
    if not share:
        return np.zeros(0, dtype=np.int64)
    draws = np.array(
        [_draw(f"{seed}|".encode() + row.ids.tobytes() + row.supervised.tobytes()) for row in rows], np.uint64
    )
    threshold = np.sort(draws)[max(1, _round(share * len(rows))) - 1]
    held = np.flatnonzero(draws <= threshold)
    if len(held) == len(rows):
        raise DataError(
            f"--hold-out {share}: of the {len(rows)} rows of --train {labels} none are left to train on.",
            "Give more rows, or a smaller share.",
        )
    return held


def _draw(text: bytes) -> int:
    """A whole number from 0 to 2^64 that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _round(number: float) -> int:
    """The nearest whole number, halves up: 2.5 is 3."""
    return math.floor(number + 0.5)
