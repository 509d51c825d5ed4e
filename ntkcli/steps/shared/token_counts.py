"""Exact lengths in tokens of a data set's rows, and the tokens, made once for each tokenizer and kept.

So every problem of a file is told before weights are loaded, and `--dry-run`, a second kind of features and `select`
know lengths without tokenising again; features and training take the tokens (`ntkcli.steps.shared.kept_tokens`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import OnError
from ntkcli.data import BadRow, DataFile, Encoded, Encoder, Row, RowError
from ntkcli.data.encode_stream import attempt, encode_whole
from ntkcli.data.encoding import VERSION as ENCODER_VERSION
from ntkcli.data.problems import BAD_KEPT, each, refusal, unusable
from ntkcli.data.raw_text import CHAT
from ntkcli.identity import ModelIdentity, embedding_rows
from ntkcli.progress import Progress, Silent
from ntkcli.steps.shared.environment import begin, environment
from ntkcli.steps.shared.kept_tokens import ANSWERS, IDS, KeptTokens, as_texts, kept_arrays
from ntkcli.steps.shared.kept_tokens import VERSION as TOKENS_VERSION
from ntkcli.steps.shared.row_sets import rows_in_order

PART_ROWS: Final = 1 << 12
"""Rows of a part: two seconds of one core, and some MB of tokens."""
_NO_LIMIT: Final = sys.maxsize  # lengths are kept as they are; a maximum length is applied where they are read
_DIGITS: Final = 16
_TOKENS: Final = "ids"  # the field of a spec whose counts have the tokens beside them

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Counts:
    """Of some rows: `length` (n,) int32 in tokens before any cut, and `status` (n,) uint8; bad ones have length 0."""

    length: NDArray[np.int32]
    status: NDArray[np.uint8]

    def good(self) -> NDArray[np.bool_]:
        """Which rows can be encoded, (n,)."""
        found: NDArray[np.bool_] = self.status < store.RowStatus.UNREADABLE
        return found


def find_counts(
    stored: store.Store, dataset: store.Artefact, model: ModelIdentity, *, thinking: bool | None, text_as: str = CHAT
) -> store.Artefact | None:
    """The finished counts of a data set by this tokenizer, if there are any."""
    spec = _spec(dataset, model, thinking, text_as)
    for one in (spec, {key: value for key, value in spec.items() if key != _TOKENS}):  # counts were kept alone first
        known = stored.find(_name(dataset, one))
        if known is not None and known.spec == one and known.complete:
            return known
    return None


def count_tokens(
    stored: store.Store,
    dataset: store.Artefact,
    file: DataFile,
    model: ModelIdentity,
    *,
    thinking: bool | None = None,
    text_as: str = CHAT,
    shard: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> store.Artefact:
    """`tokens/<data>/<digest of tokenizer and template>`, finished: by this process and the other shards together."""
    known = find_counts(stored, dataset, model, thinking=thinking, text_as=text_as)
    if known is not None:
        return known
    progress = progress or Silent()
    spec = _spec(dataset, model, thinking, text_as)
    artefact = stored.create(
        _name(dataset, spec),
        kind=store.Kind.TOKENS,
        spec=spec,
        parents={dataset.name: dataset.fingerprint},
        n=dataset.n,
        part_rows=PART_ROWS,
        arrays={
            "length": store.ArraySpec("int32"),
            "status": store.ArraySpec("uint8", attrs=store.status_attrs()),
            **kept_arrays(),
        },
        attrs={"model": model.reference},
    )
    if not artefact.complete:
        begin(artefact, environment("transformers", "tokenizers"), progress)
        status, encoder = dataset.read("status"), _encoder(model, thinking, text_as)
        progress.start(f"tokens of {dataset.name}", total=artefact.n, unit="rows", done=artefact.rows_done())
        for whose in (shard, (0, 1)):  # own parts first, then what is left of the others'
            _fill(artefact, artefact.pending(whose), file, status, encoder, progress)
        progress.stop()
    return artefact


def kept_tokens(
    stored: store.Store | None, dataset: store.Artefact | None, model: ModelIdentity, encoder: Encoder
) -> KeptTokens:
    """Rows of the data set as tokens by this encoder: those that the store has, the others made."""
    if stored is None or dataset is None:
        return KeptTokens(None, encoder)
    thinking, text_as = encoder.spec.get("thinking"), encoder.spec.get("text_as", CHAT)
    return KeptTokens(find_counts(stored, dataset, model, thinking=thinking, text_as=text_as), encoder)


def counts_of(artefact: store.Artefact, rows: Rows | None) -> Counts:
    """The counts of all rows, or of some."""
    length, status = artefact.read("length"), artefact.read("status")
    return Counts(length, status) if rows is None else Counts(length[rows], status[rows])


def count(
    rows: Iterable[Row | BadRow], model: ModelIdentity, *, thinking: bool | None, text_as: str = CHAT,
    max_length: int | None = None,
) -> Counts:  # fmt: skip
    """The counts of these rows, not kept; before any cut, or cut at `max_length`."""
    encoder = _encoder(model, thinking, text_as, max_length or _NO_LIMIT)
    found = [
        _count(row, whole if not isinstance(whole, Encoded) else attempt(encoder.fit, row, whole))
        for row, whole in encode_whole(rows, encoder)
    ]
    return _counts(found)


def settle_problems(
    counts: Counts,
    *,
    file: DataFile,
    rows: Rows | None,
    status: NDArray[np.uint8],
    model: ModelIdentity,
    thinking: bool | None,
    on_error: OnError,
    progress: Progress,
    text_as: str = CHAT,
) -> None:
    """Rows that can't be used: refused with the reasons of the first ones, or told and left out, by `on_error`."""
    bad = np.flatnonzero(~counts.good())
    if not len(bad):
        return
    first = (bad if rows is None else rows[bad])[:BAD_KEPT].astype(np.int64)
    told = list(_reasons(rows_in_order(file, first, status), _encoder(model, thinking, text_as)))
    if on_error == OnError.FAIL:
        raise refusal(told, len(bad))
    for line in each(told, len(bad)) or [f"{told[0].place}: {told[0].reason}"]:
        progress.note(f"left out: {line}")


def refuse_long_rows(
    counts: Counts, *, model: ModelIdentity, max_length: int, file: DataFile, rows: Rows | None
) -> None:
    """UsageError if the longest row, cut to `max_length`, needs more positions than the model has embeddings for."""
    from ntkcli.engine.models.limits import refuse_too_long

    longest = int(counts.length.max(initial=0))
    if longest:
        at = int(counts.length.argmax()) if rows is None else int(rows[counts.length.argmax()])
        refuse_too_long(model, min(longest, max_length), f"{file.path}: row {at + 1}")


def _spec(dataset: store.Artefact, model: ModelIdentity, thinking: bool | None, text_as: str) -> dict[str, Any]:
    """All that a length depends on; the maximum length is applied later."""
    encoder: dict[str, Any] = {"version": ENCODER_VERSION}
    if (rows := embedding_rows(model)) is not None:
        encoder["embedding_rows"] = rows  # rows with other tokens can't be used
    if thinking is not None:
        encoder["thinking"] = thinking
    if text_as != CHAT:
        encoder["text_as"] = text_as
    return {
        "data": dataset.spec["digest"],
        "tokenizer": model.spec["tokenizer"],
        "encoder": encoder,
        _TOKENS: TOKENS_VERSION,
    }


def _name(dataset: store.Artefact, spec: dict[str, Any]) -> str:
    """Another tokenizer, and another data set under the same name, get counts of their own."""
    return f"tokens/{dataset.name.partition('/')[2]}/{store.fingerprint(spec)[:_DIGITS]}"


def _encoder(model: ModelIdentity, thinking: bool | None, text_as: str, max_length: int = _NO_LIMIT) -> Encoder:
    from ntkcli.engine.models.loading import load_tokenizer

    return Encoder(load_tokenizer(model), max_length=max_length, thinking=thinking, text_as=text_as)


def _fill(
    artefact: store.Artefact,
    pending: list[int],
    file: DataFile,
    status: NDArray[np.uint8],
    encoder: Encoder,
    progress: Progress,
) -> None:
    """Count the pending parts, in one pass over the file that decodes no other rows."""
    bounds = [artefact.part_bounds(part) for part in pending]
    wanted = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(*bound) for bound in bounds)])
    stream = encode_whole(rows_in_order(file, wanted, status) if len(wanted) else iter(()), encoder)
    for part, (start, stop) in zip(pending, bounds, strict=True):
        found, texts = [], []
        for row, whole in islice(stream, stop - start):
            found.append(_count(row, whole))
            texts.append(as_texts(whole if isinstance(whole, Encoded) else None))
            progress.advance(1, tokens=found[-1][0])
        counts = _counts(found)
        artefact.write_part(
            part,
            {
                "length": counts.length,
                "status": counts.status,
                IDS: [ids for ids, _ in texts],
                ANSWERS: [answers for _, answers in texts],
            },
        )


def _count(row: Row | BadRow, encoded: Encoded | RowError | None) -> tuple[int, int]:
    """Length and status of a row."""
    if isinstance(encoded, Encoded):
        return len(encoded), int(store.RowStatus.OK)
    bad = row if isinstance(row, BadRow) else encoded
    return 0, int(bad.status if bad is not None else store.RowStatus.UNREADABLE)


def _counts(found: list[tuple[int, int]]) -> Counts:
    return Counts(np.array([n for n, _ in found], np.int32), np.array([status for _, status in found], np.uint8))


def _reasons(rows: Iterator[Row | BadRow], encoder: Encoder) -> Iterator[BadRow]:
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            encoder.encode(row)
        except RowError as error:
            yield unusable(row, error)
