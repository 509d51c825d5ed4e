"""The pool rows that are most like a row typed in, by the features that the pool has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli import feature_encoding
from ntkcli.data import DataFile, Row, RowError
from ntkcli.data.schemas import detect, known_schemas, read_row
from ntkcli.data.stdin import readable
from ntkcli.errors import DataError, NtkselError, UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.scoring.features import Block, FeatureReader, HeldRows
from ntkcli.scoring.similarity import cosine_scores
from ntkcli.selection.top import top
from ntkcli.steps.features.again import load_again
from ntkcli.steps.shared.datasets import moved_data
from ntkcli.steps.shared.pool_rows import PoolRow, pool_rows
from ntkcli.steps.shared.release import frees_memory
from ntkcli.steps.shared.stores import open_store

WAYS = "--text TEXT, --prompt TEXT with --completion TEXT, or --row FILE"


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The rows of `pool` nearest to the row by cosine of `feature`, out of `scored` rows, best first.

    `farthest` are the lowest, the worst first, where they were asked for. `tokens` of the row were seen, and if it is
    `truncated` these are not all.
    """

    pool: str
    feature: str
    centre: bool
    tokens: int
    truncated: bool
    scored: int
    nearest: tuple[PoolRow, ...]
    farthest: tuple[PoolRow, ...] | None = None


def query(
    store_path: str | Path,
    *,
    pool: str,
    text: str | None = None,
    prompt: str | None = None,
    completion: str | None = None,
    row: str | Path | None = None,
    feature: str = "ntk",
    n: int = 10,
    bottom: bool = False,
    centre: bool = True,
    device: str = "auto",
    data: Sequence[str] = (),
    progress: Progress | None = None,
) -> QueryResult:
    """The `n` nearest pool rows (and with `bottom` the `n` farthest) of one row, in a pass over the pool's features.

    The row is `text`, or `prompt` and `completion`, or the only row of the file `row` (`-`: standard input), and gets
    the feature that it would have in a data set of its own, featurized as the pool was. The cosine is that of `score
    --method cosine`; with `centre` both sides lose the pool's mean, which is another pass. Writes nothing. `data` is
    where the pool's file is now, if it has moved.

    Raises:
        UsageError: there is no row, or there are several; the model is not where it was.
        SpecError: the features can't be made in the same way any more.
        DataError, NtkselError: the row can't be used, or its values are not finite.
    """
    progress = progress or Silent()
    stored = open_store(store_path)
    moved_data(stored, data, default=[pool])
    dataset = stored.get(f"datasets/{store.check_name(pool, '--pool')}")
    features = stored.get(f"features/{pool}/{store.check_name(feature, '--feature')}")
    stored.check_parents(features)
    asked = _row(text, prompt, completion, row, columns=dataset.attrs.get("columns") or {})
    reader = FeatureReader(features, n=dataset.n, on_block=progress.advance)
    rows = reader.usable  # IncompleteError if some are not done, before a model is loaded
    side, tokens, truncated = _featurized(stored, features, asked, device=device)
    if truncated:
        progress.note(f"the row was cut to {tokens} tokens, as the pool's rows are")
    progress.start(features.name, total=features.n * (1 + centre), unit="rows")
    values = cosine_scores(reader, [side], centre=centre)[:, 0].astype(np.float32)
    progress.stop()
    order = top(values, np.full(len(values), np.nan, dtype=np.float32), rows)
    ranks = np.arange(1, len(order) + 1)
    best = pool_rows(stored, dataset, order[:n], values=values, ranks=ranks)
    worst = pool_rows(stored, dataset, order[::-1][:n], values=values, ranks=ranks[::-1]) if bottom else None
    return QueryResult(pool, features.name, centre, tokens, truncated, len(order), best, worst)


def _row(
    text: str | None,
    prompt: str | None,
    completion: str | None,
    row: str | Path | None,
    *,
    columns: Mapping[str, str],
) -> Row:
    """The row asked for. `columns` are those of the pool's file, whose rows may be given as they are there."""
    pair = {key: value for key, value in (("prompt", prompt), ("completion", completion)) if value is not None}
    if sum((text is not None, bool(pair), row is not None)) != 1:
        raise UsageError("The row is missing or given in several ways.", f"Give {WAYS}.")
    if text is not None:
        return _read({"text": text}, "the text", {})
    if pair:
        if len(pair) < 2:
            missing = "completion" if "prompt" in pair else "prompt"
            raise UsageError(f"--{missing} is missing.", "Give both, or --text for a text alone.")
        return _read(pair, "the row", {})
    with readable(str(row)) as path:
        found = list(islice(DataFile(path).records(), 2))
        if len(found) != 1:
            raise UsageError(
                f"--row {row} has {'no row' if not found else 'more than one row'}.", "Give a file with one row."
            )
        try:
            raw = found[0].raw()
        except RowError as error:
            raise DataError(
                f"--row {row}: {error.reason}.", 'Give a row such as {"prompt": ..., "completion": ...}.'
            ) from error
        return _read(raw, f"--row {row}", columns)


def _read(raw: dict[str, Any], what: str, columns: Mapping[str, str]) -> Row:
    """The row under the first schema that it fits, by the pool's columns or else by its own."""
    for known in (columns, {}):
        if (schema := detect(raw, known)) is not None:
            try:
                return read_row(schema, raw, index=0, line=1, columns=known, file=what)
            except RowError as error:
                raise DataError(f"{what} can't be used: {error.reason}.", f"Give {WAYS}.") from error
    raise DataError(f"{what} fits no schema: {known_schemas()}.", "Rename its columns.")


@frees_memory
def _featurized(stored: store.Store, features: store.Artefact, row: Row, *, device: str) -> tuple[HeldRows, int, bool]:
    """The row's feature as the store would keep it, its tokens, and whether it was cut."""
    extractor, encoder = load_again(stored, features, device=device)
    try:
        encoded = encoder.encode(row)
    except RowError as error:
        raise DataError(f"{row.file} can't be used: {error.reason}.", f"Give {WAYS}.") from error
    found = extractor.vectors([encoded], on_batch=lambda *_: None)
    if found.non_finite:
        raise NtkselError(
            f"The features of {row.file} are not finite.", "Give another row, or featurize with --dtype float32."
        )
    vectors = "embedding" if features.spec["kind"] == "embed" else "sketch"
    held = feature_encoding.encode(found.unit, vectors, features.spec["store_dtype"])
    block = Block(np.zeros(1, dtype=np.int64), found.norm.astype(np.float64), held, vectors)
    return HeldRows(block), len(encoded), encoded.truncated
