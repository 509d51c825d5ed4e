"""What a validation is made of, looked up and checked before a model is loaded: scores, pool, domain, tasks, oracle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Scorer
from ntkcli.data import BadRow, DataFile, Encoded, Row, RowError
from ntkcli.data.problems import BAD_KEPT, refusal, unusable
from ntkcli.data.rows import Content, content_id
from ntkcli.errors import DataError, SpecError, UsageError, listed
from ntkcli.selection.duplicates import normalised
from ntkcli.statistics.learning import share_nats
from ntkcli.steps.evaluation.items import Items, Task, load_tasks
from ntkcli.steps.shared.datasets import data_file, kept_data
from ntkcli.steps.shared.kept_tokens import KeptTokens
from ntkcli.steps.shared.non_finite import name_of
from ntkcli.steps.shared.pool_rows import text_of
from ntkcli.steps.shared.row_sets import RowSet, resolve_rows, rows_in_order
from ntkcli.steps.shared.sources import BY_SOURCE, rows_of_sources
from ntkcli.steps.shared.stores import require_current
from ntkcli.steps.validation.plan import Pool, Rows


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The scores and the pool that they are of."""

    names: tuple[str, ...]
    artefacts: tuple[store.Artefact, ...]
    dataset: store.Artefact
    file: DataFile

    @property
    def parents(self) -> dict[str, str]:
        """The data set and the scores."""
        return {one.name: one.fingerprint for one in (self.dataset, *self.artefacts)}


@dataclass(frozen=True, slots=True)
class Oracle:
    """Rows of the pool known to be right: `rows` ascending, and what goes into the spec."""

    rows: Rows
    spec: Any


def find_scores(stored: store.Store, names: Sequence[str]) -> Scored:
    """The scores, finished and current, all of one pool.

    Raises:
        UsageError: there is none, or one is given twice.
        SpecError: a score is of another pool than the first.
    """
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--score: {', '.join(names) or 'nothing'}.", "Give each score once, at least one.")
    artefacts = [stored.get(f"scores/{store.check_name(name, '--score')}") for name in names]
    for name, artefact in zip(names, artefacts, strict=True):
        require_current(stored, artefact)
        if (artefact.attrs["data"], artefact.spec["data"]) != (artefacts[0].attrs["data"], artefacts[0].spec["data"]):
            raise SpecError(
                f"--score {name} is of the data set {artefact.attrs['data']!r}, --score {names[0]} of "
                f"{artefacts[0].attrs['data']!r}: they score other rows.",
                "Give scores of one pool, or validate them one by one.",
            )
    dataset = stored.get(f"datasets/{artefacts[0].attrs['data']}")
    return Scored(tuple(names), tuple(artefacts), dataset, data_file(stored, dataset))


def find_oracle(stored: store.Store, text: str | None, scored: Scored) -> Oracle | None:
    """The rows that `FILE` or `source=a,b` stands for: of a file those of the pool with the same id or content.

    Raises:
        UsageError: the pool has no such label.
        DataError: no row of the file is in the pool.
    """
    if text is None:
        return None
    dataset = scored.dataset
    if text.startswith(BY_SOURCE):
        rows, labels = rows_of_sources(dataset, text, option="--oracle")
        return Oracle(rows, {"source": labels})
    given = resolve_rows(stored, text, option="--oracle")
    wanted = [row for row in given if isinstance(row, Row)]
    ids = {row.row_id for row in wanted}
    contents = {_content(row) for row in wanted}
    by_id = np.array([row_id in ids for row_id in dataset.read("row_id")], dtype=np.bool_)
    if by_id.sum() < len(wanted):
        for pool_row in rows_in_order(scored.file, None, dataset.read("status")):
            by_id[pool_row.index] |= isinstance(pool_row, Row) and _content(pool_row) in contents
    rows = np.flatnonzero(by_id).astype(np.int64)
    if not len(rows):
        raise DataError(
            f"--oracle {text}: none of its {len(wanted)} rows is in {dataset.name}, by id or by content.",
            "Give rows of the pool, or source=LABEL,... for the pool's own labels.",
        )
    return Oracle(rows, given.spec)


def _content(row: Row) -> str:
    return content_id(Content(row.messages, row.choices, row.answer, row.context, row.tokens, row.labels))


def pool_of(scored: Scored, tokens: Rows, usable: NDArray[np.bool_], oracle: Oracle | None) -> Pool:
    """The rows that every score has a finite value for and that can be used; `tokens`, `usable` are per pool row."""
    values = np.stack([one.read("score").astype(np.float64) for one in scored.artefacts])
    status = scored.dataset.read("status")
    good = np.isfinite(values).all(axis=0) & usable & (status < store.RowStatus.UNREADABLE)
    rows = np.flatnonzero(good).astype(np.int64)
    if not len(rows):
        raise DataError(
            f"No row of {scored.dataset.name} is scored by all of {', '.join(scored.names)}.",
            "Give scores that share rows.",
        )
    ties = np.stack([one.read("similarity").astype(np.float64)[rows] for one in scored.artefacts])
    known = None if oracle is None else oracle.rows[good[oracle.rows]]
    if known is not None and not len(known):
        raise DataError(
            f"--oracle matches 0 rows that {', '.join(scored.names)} score.",
            "Give scores that cover the oracle's rows.",
        )
    return Pool(rows, tokens[rows], scored.dataset.read("source")[rows].astype(np.int64), values[:, rows], ties, known)


def load_items(
    stored: store.Store, references: Sequence[str], *, columns: Mapping[str, str] | None, split: str | None
) -> Items:
    """The test items: scored by the right choice among the choices, or by the loss of the answer where none are."""
    if not references:
        raise UsageError("--task is missing.", "Give the test items: --task FILE.")
    files = [str(kept_data(stored, one)) for one in references]
    items = load_tasks(files, scorer=Scorer.LOSS, columns=columns, split=split)
    tasks = tuple(
        replace(task, scorer="choices" if all(isinstance(row, Row) and row.choices for row in task.rows) else "loss")
        for task in items.tasks
    )
    return replace(items, tasks=tasks)


def domain_items(rows: Sequence[Row], spec: Mapping[str, Any]) -> Items:
    """The domain's rows as test items of one task; `spec` says which rows these are."""
    scorer = "choices" if all(row.choices for row in rows) else "loss"
    task = Task("domain", tuple(rows), store.fingerprint(dict(spec)), scorer, retained=False, file=None)
    return Items((task,), tuple(rows), np.zeros(len(rows), dtype=np.int32))


def made_from(stored: store.Store, scored: Scored, spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The scores that were made from a data set with the rows of `spec`."""
    found = []
    for name, artefact in zip(scored.names, scored.artefacts, strict=True):
        sets = {parent.split("/")[1] for parent in artefact.parents if parent.startswith(("features/", "datasets/"))}
        known = [one for each in sorted(sets) if (one := stored.find(f"datasets/{each}")) is not None]
        if any(one.spec["digest"] == spec.get("data") for one in known if one.name != scored.dataset.name):
            found.append(name)
    return tuple(found)


def shares_of(items: Items) -> list[float]:
    """For each task the loss of knowing the shares of its answers alone; NaN for tasks without choices."""
    found = []
    for task in items.tasks:
        rows = [row for row in task.rows if isinstance(row, Row) and row.answer is not None]
        found.append(
            share_nats(np.array([row.answer for row in rows]), [row.choices for row in rows])
            if task.scorer == "choices"
            else float("nan")
        )
    return found


def refuse_overlap(items: Items, rows: Sequence[Row], *, what: str) -> None:
    """DataError, naming pairs, if rows that are to be trained on say the same words as a test item."""
    tests = {tuple(normalised(text_of(item))): item for item in items.rows if isinstance(item, Row)}
    pairs = [(row, tests[words]) for row in rows if (words := tuple(normalised(text_of(row)))) in tests]
    if pairs:
        raise DataError(
            f"{len(pairs)} rows of {what} are test items: "
            f"{listed([f'{name_of(row)} is {name_of(item)}' for row, item in pairs])}.",
            "Take them out of the test file or out of these rows: trained on, they would make every score look right.",
        )


def read_domain(domain: RowSet) -> list[Row]:
    """The domain's rows, all of which can be used."""
    return [row for row in domain if isinstance(row, Row)]


def encode_all(rows: Sequence[Row], tokens: KeptTokens, *, what: str) -> list[Encoded]:
    """Each row's tokens. DataError, naming rows, if some can't be encoded or have no answer to learn."""
    bad: list[BadRow] = []
    silent: list[str] = []
    encoded: list[Encoded] = []
    for row, found in zip(rows, tokens.encoded_rows(rows), strict=True):
        match found[1]:
            case RowError() as error:
                bad.append(unusable(row, error))
            case Encoded() as one:
                encoded.append(one)
                if not one.supervised.any():
                    silent.append(name_of(row))
    if bad:
        raise refusal(bad[:BAD_KEPT], len(bad))
    if silent:
        raise DataError(
            f"{len(silent)} rows of {what} have no answer to learn: {listed(silent)}.",
            "Give rows with completions.",
        )
    return encoded


def pool_rows(scored: Scored, wanted: Rows) -> Iterator[Row]:
    """Rows of the pool at ascending indices."""
    for row in rows_in_order(scored.file, wanted, scored.dataset.read("status")):
        if isinstance(row, Row):
            yield row
