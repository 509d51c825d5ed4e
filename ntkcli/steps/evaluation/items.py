"""Tasks of an evaluation: files of items, each with a name, a scorer and a digest, and all their items in a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import OnError, Scorer
from ntkcli.data import BadRow, DataFile, Row, scan
from ntkcli.data.raw_text import CHAT, RAW, SCHEMA, refuse_other_schema
from ntkcli.data.references import split_name
from ntkcli.data.tasks.reference import task_label
from ntkcli.data.tasks.source import for_evaluation
from ntkcli.errors import DataError, UsageError
from ntkcli.steps.shared.row_sets import rows_in_order


@dataclass(frozen=True, slots=True)
class Task:
    """One task: its items' rows, the digest of its file, how they are scored, and whether it measures general ability.

    `file` is the path that `select` looks for leaks of; None if the rows were read with renamed columns or a split.
    `source` is what the rows were read from, `schema` the name of the schema that they have.
    """

    name: str
    rows: tuple[Row | BadRow, ...]
    digest: str
    scorer: str
    retained: bool
    file: str | None
    source: str = ""
    schema: str = ""


@dataclass(frozen=True, slots=True)
class Items:
    """The items of all tasks in a row: `task` (n,) int32 is a position in `tasks`."""

    tasks: tuple[Task, ...]
    rows: tuple[Row | BadRow, ...]
    task: NDArray[np.int32]

    def scorer(self, index: int) -> str:
        """How the item is scored."""
        return self.tasks[int(self.task[index])].scorer

    @property
    def scorers(self) -> list[str]:
        """The scorer of each task."""
        return [task.scorer for task in self.tasks]

    @property
    def n_choices(self) -> int:
        """The most choices that an item has; 0 if none has any."""
        return max((len(row.choices) for row in self.rows if isinstance(row, Row)), default=0)


def load_tasks(
    references: Sequence[str],
    *,
    retain: Sequence[str] = (),
    scorer: Scorer = Scorer.AUTO,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    on_error: OnError = OnError.FAIL,
    text_as: str = CHAT,
) -> Items:
    """All items of the tasks: `FILE`, a task of `ntkcli.data.tasks.reference`, or `NAME=` either; else the file names
    the task.

    `scorer` auto: `choices` for a file whose rows have choices, `loss` for one of raw texts (`text_as`), else
    `generate`. Next to raw texts, tasks with choices or written answers keep their chat template. `columns` and
    `split` are of every file: `ntkcli.data.DataFile`.

    Raises:
        UsageError: two tasks have one name, or there is none.
        DataError: a task has no row that the scorer can use; the message names the file and what it lacks. Texts are
            to be raw, and a task that is scored by loss has none, or no task has any.
    """
    given = [(reference, False) for reference in references] + [(reference, True) for reference in retain]
    named = [(*_name_of(reference), retained) for reference, retained in given]
    twice = [name for name, count in Counter(name for name, _, _ in named).items() if count > 1]
    if twice:
        raise UsageError(f"Two tasks are called {twice[0]!r}.", f"Name one of them: --task NAME={named[-1][1]}.")
    tasks = [_load(name, path, retained, scorer, columns, split, on_error, text_as) for name, path, retained in named]
    if text_as == RAW and "loss" not in [task.scorer for task in tasks]:
        reference, retained = given[0]
        refuse_other_schema(f"scored by {tasks[0].scorer}", RAW, f"{'--retain' if retained else '--task'} {reference}")
    rows = tuple(row for task in tasks for row in task.rows)
    codes = np.repeat(np.arange(len(tasks), dtype=np.int32), [len(task.rows) for task in tasks])
    return Items(tuple(tasks), rows, codes)


def _name_of(reference: str) -> tuple[str, str]:
    """Name and path of `NAME=PATH` or `PATH`."""
    name, path = split_name(reference)
    if name is not None and path:
        return name, path
    return store.check_name(task_label(reference), "the name of --task"), reference


def _load(
    name: str,
    path: str,
    retained: bool,
    scorer: Scorer,
    columns: Mapping[str, str] | None,
    split: str | None,
    on_error: OnError,
    text_as: str,
) -> Task:
    file = DataFile(path if split else for_evaluation(path), columns=columns, split=split)
    file.watch()
    scanned = scan(file, on_error=on_error)
    rows = tuple(rows_in_order(file, None, scanned.status))
    good = [row for row in rows if isinstance(row, Row)]
    chosen = scorer
    if scorer == Scorer.AUTO:
        raw = text_as == RAW and file.schema.name == SCHEMA
        written = Scorer.LOSS if raw else Scorer.GENERATE
        chosen = Scorer.CHOICES if any(row.choices for row in good) else written
    option = "--retain" if retained else "--task"
    if chosen == "loss":
        refuse_other_schema(file.schema.name, text_as, f"{option} {path}")
    if chosen == "choices" and not all(row.choices for row in good):
        lacking = next(row for row in good if not row.choices)
        raise DataError(
            f"{option} {path}: its rows have no choices ({lacking.place}; the file is {file.schema.name}).",
            "Give rows with prompt, choices and answer, or --scorer generate or loss.",
        )
    if chosen == "generate" and not any(row.messages and row.messages[-1].role == "assistant" for row in good):
        raise DataError(
            f"{option} {path}: its rows have no answer to compare with (the file is {file.schema.name}).",
            "Give rows with prompt and completion, or --scorer loss.",
        )
    plain = not columns and split is None
    leaks = file.reference if plain else None
    return Task(name, rows, scanned.digest, chosen, retained, leaks, file.reference, file.schema.name)
