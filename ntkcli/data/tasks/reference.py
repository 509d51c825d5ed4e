"""Task files: how the rows of a published data set become a prompt, choices and an answer. Text only, nothing runs.

A reference is `NAME[@SPLIT][:PATH]`, NAME one of this folder or the path of a file of your own that ends in .toml.
Without PATH the rows come from the Hub. docs/tasks.md has the format.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from ntkcli.data.tasks.layout import Layout
from ntkcli.data.tasks.readers import READERS
from ntkcli.errors import UsageError

FOLDER: Final = Path(__file__).resolve().parent
_REFERENCE: Final = re.compile(r"(?P<name>[^:@]*\.toml|[A-Za-z0-9][\w.-]*)(?:@(?P<split>[\w-]+))?(?::(?P<path>.+))?")
_TEXTS: Final = ("description", "domain", "homepage", "licence", "citation", "local", "split")
_KEYS: Final = (*_TEXTS, "hub", "file", "layout")


@dataclass(frozen=True, slots=True)
class TaskFile:
    """Files of a task by the pattern of their names, and the reader for them; "" for the one of their suffix."""

    names: str
    reader: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task file: what it is, where its rows are, and their layouts; `digest` is of the file's bytes."""

    name: str
    description: str
    domain: str
    homepage: str
    licence: str
    citation: str
    local: str
    split: str
    hub: tuple[str, ...]
    files: tuple[TaskFile, ...]
    layouts: tuple[Layout, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class TaskReference:
    """A task, the split asked for and the place of the rows; "" where the reference is silent."""

    task: Task
    name: str
    split: str
    path: str

    def at(self, split: str) -> str:
        """The reference to this split of it."""
        return f"{self.name}@{split}" + (f":{self.path}" if self.path else "")


def names_task(reference: str) -> bool:
    """Whether a reference names a task: one that is known here, or a task file. What exists as a file is one."""
    match = _REFERENCE.fullmatch(os.path.expanduser(reference))
    if match is None or (Path(reference).exists() and not match["name"].endswith(".toml")):
        return False
    return match["name"].endswith(".toml") or match["name"] in known_tasks()


def find_task(reference: str) -> TaskReference:
    """The task that a reference names (`names_task`). UsageError if its file can't be read or makes no sense."""
    match = _REFERENCE.fullmatch(os.path.expanduser(reference))
    if match is None:
        raise UsageError(f"{reference} is not a known task.", f"Give one of: {', '.join(known_tasks())}.")
    name = match["name"]
    file = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    return TaskReference(_read(file), name, match["split"] or "", os.path.expanduser(match["path"] or ""))


def task_label(reference: str) -> str:
    """A task's name for tables: `medmcqa` of medmcqa@validation:/data/medmcqa; of a data file its stem."""
    return find_task(reference).task.name if names_task(reference) else Path(reference).name.split(".")[0]


@cache
def known_tasks() -> tuple[str, ...]:
    """The names of the tasks that come with the program."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def _read(file: Path) -> Task:
    try:
        data = file.read_bytes()
        said = tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror or error}.", "Give a task's name or file.") from error
    except ValueError as error:
        raise UsageError(f"{file} is not valid TOML: {error}.", "Fix it there.") from error
    if unknown := sorted(set(said) - set(_KEYS)):
        raise UsageError(f"{file}: the key {unknown[0]!r} is not known.", f"Known are: {', '.join(_KEYS)}.")
    tables = said.get("layout")
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"{file} has no [[layout]].", "docs/tasks.md shows a task file.")
    layouts = tuple(_layout(file, number, table) for number, table in enumerate(tables, start=1))
    texts = {key: said.get(key, "") for key in _TEXTS}
    if wrong := next((key for key, value in texts.items() if not isinstance(value, str)), None):
        raise UsageError(f"{file}: {wrong} is not text.", f'Write {wrong} = "...".')
    hub, files = said.get("hub", []), said.get("file", [])
    hub = [hub] if isinstance(hub, str) else hub
    if not isinstance(hub, list) or not all(isinstance(name, str) for name in hub):
        raise UsageError(f"{file}: hub is neither a text nor a list of them.", 'Write hub = "org/name".')
    if not isinstance(files, list):
        raise UsageError(f"{file}: file is not a list of tables.", "Write [[file]], in two brackets.")
    return Task(
        name=file.stem,
        **{key: " ".join(value.split()) for key, value in texts.items()},
        hub=tuple(hub),
        files=tuple(_file(file, table) for table in files),
        layouts=layouts,
        digest=hashlib.sha256(data).hexdigest(),
    )


def _layout(file: Path, number: int, table: Any) -> Layout:
    try:
        return Layout.of(table)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{file}, layout {number}: {error}.", "docs/tasks.md shows a task file.") from error


def _file(file: Path, table: Any) -> TaskFile:
    said: Mapping[str, Any] = table if isinstance(table, dict) else {}
    names, reader = said.get("names"), said.get("reader", "")
    if not isinstance(names, str) or set(said) - {"names", "reader"}:
        raise UsageError(f"{file}: a [[file]] has names, a pattern, and perhaps a reader.", "As in names = '*.csv'.")
    if reader and reader not in READERS:
        raise UsageError(f"{file}: the reader {reader!r} is not known.", f"Give one of: {', '.join(READERS)}.")
    return TaskFile(names, reader)
