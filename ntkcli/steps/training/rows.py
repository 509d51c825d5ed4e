"""The rows of a fine-tuning: sets mixed by weight, some held out, all encoded once. Never imports torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import OnError
from ntkcli.data import BadRow, Encoded, Encoder, Row, RowError
from ntkcli.data.encode_stream import attempt
from ntkcli.data.packing import pack_rows
from ntkcli.data.problems import BAD_KEPT, refusal, unusable
from ntkcli.data.raw_text import CHAT, SCHEMA, refuse_other_schema
from ntkcli.data.references import split_weight
from ntkcli.errors import DataError, UsageError
from ntkcli.progress import counted_below
from ntkcli.steps.shared.datasets import data_sets_of, moved_data
from ntkcli.steps.shared.kept_tokens import KeptTokens
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
        extra = np.argsort(draws, kind="stable")[: nearest(share * len(readable))]
        counts = np.full(len(readable), copies)
        counts[extra] += 1
        return replace(self.rows, rows=readable[counts > 0]), counts[counts > 0]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Encoded rows and how to use them: `train` (n,) int64, positions in `rows`, repeats allowed; `held_out` the same.

    A row is an example to train on: a row of a file, or a piece of a raw document; `documents` are the rows of files.
    `names` say where each row stands; `sets` count rows, with repeats, set by set. `packs` has the sequences that rows
    are packed into, as places in `train`, empty without packing. `stages` count stage by stage what steps are made of:
    rows of `train`, or packs.
    """

    rows: Sequence[Encoded]
    names: Sequence[str]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    sets: Sequence[int]
    skipped: int
    stages: Sequence[int] = ()
    documents: int = 0
    packs: Sequence[Sequence[int]] = ()

    def counts(self) -> dict[str, Any]:
        """Numbers for the run's attributes and its result."""
        return {
            "rows": len(self.train),
            "truncated": sum(row.truncated for row in self.rows),
            "skipped": self.skipped,
            "held_out": len(self.held_out),
            "set_rows": list(self.sets),
            **({"documents": self.documents} if self.documents < len(self.rows) else {}),
            **({"sequences": len(self.packs)} if self.packs else {}),
        }

    def lengths(self) -> list[int]:
        """The tokens of what steps are made of, one by one: rows to train on, or packs."""
        lengths = [len(self.rows[i]) for i in self.train]
        return [sum(lengths[i] for i in pack) for pack in self.packs] if self.packs else lengths


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
    text_as: str = CHAT,
) -> list[TrainingSet]:
    """What the values of `--train` (or another `option`) stand for; without a store, files alone.

    `data`: as `moved_data` takes it. DataError if texts are to be raw (`text_as`) and rows are of another schema.
    """
    sets = []
    if stored is not None and data:
        known = [name for text in train for name in data_sets_of(stored, parse_train(text)[0])]
        moved_data(stored, data, default=known)
    for text in train:
        reference, times = parse_train(text, option)
        rows = resolve_rows(stored, reference, option=option, columns=columns, split=split, on_error=on_error)
        refuse_other_schema(rows.file.schema.name, text_as, f"{option} {reference}")
        sets.append(TrainingSet(rows, times))
    return sets


def encode_training(
    sets: Sequence[TrainingSet], encoder: Encoder, *, seed: int, hold_out: float, on_error: OnError,
    first_stage: int | None = None, pack: bool = False, hold_out_of: int | None = None,
    tokens_of: Callable[[RowSet], KeptTokens] | None = None,
) -> TrainingData:  # fmt: skip
    """The rows of all sets that have an answer to learn, encoded; a share of them held out.

    The first `first_stage` sets are a stage of their own, before the others. Rows are held out by what they hold, so
    that copies of one, and pieces of one document, are never on both sides: of all rows, by the seed; or of the set at
    `hold_out_of` alone, whatever the seed and the other sets. `pack`: those to train on are packed into sequences of at
    most the encoder's length, each stage by itself. `tokens_of` finds the tokens that the store has of a set's rows.

    Raises:
        DataError: a row can't be encoded (`on_error` "fail"), or too few are left to train on or to hold out.
    """
    found = _Encoding([], [], [], [])
    uses: list[NDArray[np.int64]] = []
    skipped = 0
    for one in sets:
        drawn, times = one.drawn(seed)
        if not len(times):
            raise DataError(
                f"--train {one.rows.label}={one.times:g}: that share draws none of its rows.", "Give a larger one."
            )
        positions: list[int] = []
        tokens = KeptTokens(None, encoder) if tokens_of is None else tokens_of(one.rows)
        pairs = zip(tokens.whole_rows(drawn), times.tolist(), strict=True)
        for (row, whole), count in counted_below(pairs, f"tokens of {one.rows.label}", len(times)):
            pieces = range(0) if isinstance(row, BadRow) else found.add(row, whole, encoder)
            skipped += not pieces  # a bad row was scanned before: only left in where these may be skipped
            positions += list(pieces) * count
        uses.append(np.array(positions, dtype=np.int64))
    if found.bad and on_error == OnError.FAIL:
        raise refusal(found.bad[:BAD_KEPT], len(found.bad))
    labels = ", ".join(one.rows.label for one in sets)
    rows = found.rows
    if not rows:
        raise DataError(f"--train {labels}: no row has an answer to learn.", no_answers(sets))
    contents = [content for document in found.documents for content in [found.content(document)] * len(document)]
    if hold_out_of is None:
        held = left_out = held_out(contents, hold_out, seed, labels)
    else:
        held, left_out = _held_out_of(uses[hold_out_of], contents, hold_out, sets[hold_out_of].rows.label)
    kept = [use[~np.isin(use, left_out)] for use in uses]
    if not any(map(len, kept)):
        raise DataError(
            f"--hold-out {hold_out}: of the rows of --train {labels} none are left to train on.",
            "Give more rows, or a smaller share.",
        )
    counts = [len(use) for use in kept]
    train = np.concatenate(kept)
    stages: Sequence[int] = () if first_stage is None else (sum(counts[:first_stage]), sum(counts[first_stage:]))
    packs: list[list[int]] = []
    if pack:
        packs, stages = _packed([len(rows[i]) for i in train], stages, encoder.max_length, seed)
    return TrainingData(rows, found.names, train, held, counts, skipped, stages, len(found.documents), packs)


def _held_out_of(
    use: NDArray[np.int64], contents: Sequence[bytes], hold_out: float, label: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of one set's `use` that are held out, and with them those of all sets that hold the same."""
    own = np.unique(use)
    if not len(own):
        raise DataError(f"--train {label}: no row has an answer to learn.", "Give rows with completions first.")
    held = own[held_out([contents[i] for i in own.tolist()], hold_out, 0, label)]
    known = {contents[i] for i in held.tolist()}
    return held, np.array([i for i, content in enumerate(contents) if content in known], dtype=np.int64)


def no_answers(sets: Sequence[TrainingSet]) -> str:
    """What helps where no row of the sets has an answer to learn."""
    texts = all(one.rows.file.schema.name == SCHEMA for one in sets)
    return "To train on the texts themselves, give --text-as raw." if texts else "Give rows with completions."


@dataclass(frozen=True, slots=True)
class _Encoding:
    """Rows to train on with their names; of each document, or row of a file, which they are; and rows that are bad."""

    rows: list[Encoded]
    names: list[str]
    documents: list[range]
    bad: list[BadRow]

    def add(self, row: Row, whole: Encoded | RowError | None, encoder: Encoder) -> range:
        """The places of what is trained on of the row: one, several for a long raw document, none if it is useless.

        `whole` are its tokens before any cut, or why it has none.
        """
        encoded = _pieces(encoder, row, whole, self.bad)
        pieces = range(len(self.rows), len(self.rows) + len(encoded))
        name = f"{row.place} (id {row.row_id})"
        self.names.extend([name] if len(encoded) == 1 else [f"{name}, piece {i + 1}" for i in range(len(encoded))])
        self.rows.extend(encoded)
        if encoded:
            self.documents.append(pieces)
        return pieces

    def content(self, document: range) -> bytes:
        """All that is trained on of a document."""
        return b"".join(content_of(self.rows[i]) for i in document)


def _packed(
    lengths: Sequence[int], stages: Sequence[int], room: int, seed: int
) -> tuple[list[list[int]], tuple[int, ...]]:
    """The packs of rows of these lengths, each stage by itself, and how many are of each stage."""
    bounds = np.cumsum([0, *(stages or [len(lengths)])]).tolist()
    staged = [pack_rows(lengths[start:stop], room, seed=seed, first=start) for start, stop in pairwise(bounds)]
    return [each for packs in staged for each in packs], tuple(map(len, staged)) if stages else ()


def _pieces(encoder: Encoder, row: Row, whole: Encoded | RowError | None, bad: list[BadRow]) -> list[Encoded]:
    """The row's tokens, a raw document's in pieces; none if it has nothing to learn or goes to the `bad` ones."""
    encoded = attempt(encoder.fit_pieces, row, whole) if isinstance(whole, Encoded) else whole
    if isinstance(encoded, RowError):
        bad.append(unusable(row, encoded))
    if not isinstance(encoded, list):
        return []
    return encoded if any(one.supervised.any() for one in encoded) else []


def content_of(row: Encoded) -> bytes:
    """All that is trained on of a row."""
    return row.ids.tobytes() + row.supervised.tobytes()


def held_out(contents: Sequence[bytes], share: float, seed: int, labels: str) -> NDArray[np.int64]:
    """Places of the rows held out: the first by a hash of seed and content, until the share is reached."""
    if not share:
        return np.zeros(0, dtype=np.int64)
    draws = np.array([_draw(f"{seed}|".encode() + content) for content in contents], np.uint64)
    threshold = np.sort(draws)[max(1, nearest(share * len(draws))) - 1]
    held = np.flatnonzero(draws <= threshold)
    if len(held) == len(draws):
        raise DataError(
            f"--hold-out {share}: of the {len(draws)} rows of --train {labels} none are left to train on.",
            "Give more rows, or a smaller share.",
        )
    return held


def _draw(text: bytes) -> int:
    """A whole number from 0 to 2^64 that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def nearest(number: float) -> int:
    """The nearest whole number, halves up: 2.5 is 3."""
    return math.floor(number + 0.5)
