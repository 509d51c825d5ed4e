"""The rows of a task: those of its files or of the Hub, each as prompt, choices and answer."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ntkcli.data.formats.records import ReadFile, Record
from ntkcli.data.places import FileSource, Source, checked_reader, find_place, paths_of_split
from ntkcli.data.rows import RAW, RowError, column_names
from ntkcli.data.tasks.readers import READERS
from ntkcli.data.tasks.reference import Task, TaskReference, find_task, names_task
from ntkcli.doors import Made
from ntkcli.errors import UsageError


class TaskRecord(Record):
    """A row of a task's file, rendered when it is asked for."""

    __slots__ = ("_inner", "_task")

    def __init__(self, inner: Record, task: Task) -> None:
        super().__init__(inner.path, inner.line)
        self._inner, self._task = inner, task

    @property
    def unit(self) -> str:  # type: ignore[override]  # of the reader below, which a class can't know
        """The word for what `line` counts."""
        return self._inner.unit

    def raw(self) -> RAW:
        """The row as prompt, choices and answer, by the first layout that fits."""
        raw = self._inner.raw()
        for layout in self._task.layouts:
            if layout.fits(raw):
                return layout.row(raw)
        wanted = " or ".join(f"({', '.join(layout.columns)})" for layout in self._task.layouts)
        raise RowError(f"it has {column_names(raw)}, and {self._task.name} reads {wanted}")

    def data(self) -> bytes:
        """What the row was made of."""
        return self._inner.data()


class TaskSource:
    """The rows of a task at its place, or on the Hub. UsageError if there are none, or the split makes no sense."""

    def __init__(self, named: TaskReference, *, split: str | None) -> None:
        if split and named.split and split != named.split:
            raise UsageError(f"--split {split} is not the split {named.split} of {named.name}.", "Give one of them.")
        self._task, wanted = named.task, split or named.split or None
        self.reference = _absolute(named, wanted)
        if named.path:
            files = self._own(named.path, wanted)
            self._inner: list[Source] = [files or find_place(named.path, split=wanted)]
        elif self._task.hub:
            self._inner = [find_place(name, split=wanted) for name in self._task.hub]
        else:
            raise UsageError(
                f"{named.name} is not on the Hub in a form that can be read: its data has to be here.",
                f"Give {named.name}:PATH. {self._task.local} From {self._task.homepage} ({self._task.licence}).",
            )

    def records(self) -> Iterator[Record]:
        """Every row of every source."""
        for inner in self._inner:
            for record in inner.records():
                yield TaskRecord(record, self._task)

    def state(self) -> list[Any]:
        """The sources' states and the task's digest."""
        return [self.reference, self._task.digest, *(inner.state() for inner in self._inner)]

    @property
    def plugins(self) -> Made:
        """Those of the sources."""
        return {name: made for inner in self._inner for name, made in inner.plugins.items()}

    def _own(self, path: str, split: str | None) -> FileSource | None:
        """The files that the task has a pattern or a reader for; None if it has none for what lies there."""
        place = Path(path)
        if place.is_file():
            reader = self._reader(place)
            if reader is not None and split is not None:
                raise UsageError(f"{split}: {place} is one file, which has no splits.", "Leave the split out.")
            return None if reader is None else FileSource(str(place.resolve()), ((place, reader),))
        if not place.is_dir() or (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            return None
        patterns = [file.names for file in self._task.files]
        found = [p for p in sorted(place.rglob("*")) if p.is_file() and any(fnmatch(p.name, name) for name in patterns)]
        if not found:
            return None
        paths = paths_of_split(path, [(p, p.relative_to(place)) for p in found], split)
        return FileSource(str(place.resolve()), tuple((p, self._reader(p) or checked_reader(p)) for p in paths))

    def _reader(self, path: Path) -> ReadFile | None:
        return next((READERS[f.reader] for f in self._task.files if f.reader and fnmatch(path.name, f.names)), None)


def _absolute(named: TaskReference, split: str | None) -> str:
    """What finds the rows again from any working directory."""
    name = str(Path(named.name).resolve()) if named.name.endswith(".toml") else named.name
    where = f"{name}@{split}" if split else name
    if not named.path:
        return where
    return f"{where}:{Path(named.path).resolve() if Path(named.path).exists() else named.path}"


def for_evaluation(reference: str) -> str:
    """The reference with the split that the task is evaluated on, where it names none and needs one.

    Training data get no such help: their split has to be said.
    """
    if not names_task(reference):
        return reference
    named = find_task(reference)
    if named.split or not named.task.split or Path(named.path).is_file():
        return reference
    return reference if named.path and _has_one_split(reference) else named.at(named.task.split)


def _has_one_split(reference: str) -> bool:
    try:
        TaskSource(find_task(reference), split=None)
    except UsageError:
        return False
    return True
