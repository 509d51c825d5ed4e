"""Rows of a data file as a model sees them: their tokens as text, and which of it is supervised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from ntkcli.data import BadRow, DataFile, Encoded, Encoder, RowError
from ntkcli.data.raw_text import CHAT, refuse_other_schema
from ntkcli.data.stdin import readable
from ntkcli.errors import UsageError
from ntkcli.identity import resolve_model


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens in a row of one kind, decoded."""

    text: str
    supervised: bool


@dataclass(frozen=True, slots=True)
class RowPreview:
    """A row: where it stands, its id and label, its tokens in pieces; or the `problem` why it has none."""

    place: str
    row_id: str
    source: str
    tokens: int
    supervised: int
    truncated: bool
    turns_dropped: int
    pieces: tuple[Piece, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """The first rows of a data file under its schema; how many of them were cut, and turns left out of these.

    `form`: what becomes of a thought that the chat template opens, "" if it opens none.
    """

    data: str
    schema: str
    rows: tuple[RowPreview, ...]
    rows_cut: int
    turns_dropped: int
    form: str


def preview(
    data: str | Path,
    *,
    model: str,
    rows: int = 5,
    max_length: int = 1024,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    thinking: bool | None = None,
    text_as: str = CHAT,
    trust_remote_code: bool = False,
) -> Preview:
    """The first `rows` rows as featurize, finetune and eval would encode them. Loads no weights, writes nothing.

    Raises:
        UsageError, DataError: the file, its columns or the model can't be used; a bad row is shown as such.
    """
    from ntkcli.engine.models.loading import load_tokenizer

    if rows < 1:
        raise UsageError(f"--rows {rows} would show nothing.", "Give 1 or more.")
    tokenizer = load_tokenizer(resolve_model(model, trust_remote_code=trust_remote_code))
    encoder = Encoder(tokenizer, max_length=max_length, thinking=thinking, text_as=text_as)
    with readable(str(data)) as path:
        file = DataFile(path, columns=columns, split=split)
        refuse_other_schema(file.schema.name, text_as, f"--data {data}")
        shown = _shown(file, rows, encoder, tokenizer)
        return Preview(
            data=str(data),
            schema=file.schema.name,
            rows=tuple(shown),
            rows_cut=sum(row.truncated for row in shown),
            turns_dropped=sum(row.turns_dropped for row in shown),
            form=encoder.form,
        )


def _shown(file: DataFile, rows: int, encoder: Encoder, tokenizer: Any) -> list[RowPreview]:
    shown = []
    for row in islice(file.rows(), rows):
        if isinstance(row, BadRow):
            shown.append(_bad(row.place, row.reason))
            continue
        try:
            encoded = encoder.encode(row)
        except RowError as error:
            shown.append(_bad(row.place, error.reason, row.row_id, row.source))
            continue
        shown.append(
            RowPreview(
                place=row.place,
                row_id=row.row_id,
                source=row.source,
                tokens=len(encoded),
                supervised=int(encoded.supervised.sum()),
                truncated=encoded.truncated,
                turns_dropped=encoded.dropped_turns,
                pieces=_pieces(encoded, tokenizer),
            )
        )
    return shown


def _bad(place: str, problem: str, row_id: str = "", source: str = "") -> RowPreview:
    return RowPreview(place, row_id, source, 0, 0, False, 0, (), problem)


def _pieces(encoded: Encoded, tokenizer: Any) -> tuple[Piece, ...]:
    """Runs of supervised and of other tokens, each decoded with its special tokens."""
    pairs = zip(encoded.ids.tolist(), encoded.supervised.tolist(), strict=True)
    return tuple(
        Piece(tokenizer.backend_tokenizer.decode([token for token, _ in run], skip_special_tokens=False), supervised)
        for supervised, run in groupby(pairs, key=lambda pair: pair[1])
    )
