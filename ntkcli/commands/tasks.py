"""`ntksel tasks`: the task files that come with the program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode, UsageError
from ntkcli.help_panels import Command, examples


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A task in words: where its data are, under which licence, and in which columns."""

    name: str
    domain: str
    description: str
    hub: tuple[str, ...]
    split: str
    local: str
    columns: tuple[tuple[str, ...], ...]
    homepage: str
    licence: str
    citation: str


@dataclass(frozen=True, slots=True)
class TaskList:
    """All that are known."""

    tasks: tuple[TaskEntry, ...]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples("ntksel tasks", "ntksel tasks medmcqa"))(tasks)


def tasks(
    name: Annotated[
        str | None, typer.Argument(help="Show this task in full.", show_default="all, one line each")
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """List the tasks that `--task NAME[@SPLIT][:PATH]` knows, and where their data come from."""
    from ntkcli.data.tasks.reference import known_tasks, names_task

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    if name is not None and not names_task(name):
        raise UsageError(f"There is no task {name!r}.", f"Give one of: {', '.join(known_tasks())}, or a .toml file.")
    entries = [_entry(each) for each in ([name] if name else known_tasks())]
    if json:
        output.result(TaskList(tuple(entries)) if name is None else entries[0], line="")
    elif name is None:
        width = max(len(entry.name) for entry in entries)
        for entry in entries:
            place = entry.hub[0].partition(":")[0] if entry.hub else "needs :PATH"
            output.say(f"{entry.name:<{width}}  {entry.domain}: {entry.description}; {place}")
    else:
        _show(entries[0], output)
    return ExitCode.OK


def _entry(name: str) -> TaskEntry:
    from ntkcli.data.tasks.reference import find_task

    task = find_task(name).task
    columns = tuple(tuple(layout.columns) for layout in task.layouts)
    return TaskEntry(
        name=name,
        domain=task.domain,
        description=task.description,
        hub=task.hub,
        split=task.split,
        local=task.local,
        columns=columns,
        homepage=task.homepage,
        licence=task.licence,
        citation=task.citation,
    )


def _show(entry: TaskEntry, output: Output) -> None:
    where = (
        f"--task {entry.name} reads {', '.join(entry.hub)}"
        if entry.hub
        else f"--task {entry.name}:PATH, not on the Hub"
    )
    output.say(f"{entry.name}: {entry.description}")
    output.say(f"  {where}{f', split {entry.split}' if entry.split else ''}")
    output.say(f"  PATH: {entry.local}")
    for columns in entry.columns:
        output.say(f"  columns: {', '.join(columns)}")
    output.say(f"  {entry.homepage}; licence: {entry.licence}; {entry.citation}")
