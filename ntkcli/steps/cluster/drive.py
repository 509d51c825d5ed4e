"""Share commands between the processes of a pool: which jobs, in what order, until all parts of all commands are done.

A command is shared in two steps: its first part alone, which makes the artefacts and finds every error of the options
once; then all other parts, in more jobs than there are processes, so that a fast one takes more. A training is one job.
Jobs write finished parts into the store themselves, so a job that is lost costs the parts in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import store
from ntkcli.progress import Progress
from ntkcli.steps.cluster.jobs import Job, Pool
from ntkcli.steps.cluster.words import by_seed, depends, for_share, is_shared
from ntkcli.steps.shared.stores import open_store

JOBS_PER_SLOT: Final = 4
"""Jobs of a command for each process: balances machines of unequal speed, and loads the model as often."""
LOOK_SECONDS: Final = 2.0
"""Between two looks at the store for the parts that are done."""


@dataclass(slots=True)
class _Command:
    """A command: those that it waits for by their numbers, and its jobs in flight."""

    words: tuple[str, ...]
    needs: set[int]
    begun: bool = False
    done: bool = False
    jobs: set[Hashable] = field(default_factory=set)


class Driver:
    """Runs commands in an order that keeps the pool busy; `finish` is called for each when its parts are done.

    `finish(i)` runs command i in this process, which finds its parts finished; commands that are not shared run there
    alone, after all before them.
    """

    def __init__(self, pool: Pool, store_path: str | Path, finish: Callable[[int], None], progress: Progress) -> None:
        self._pool, self._store, self._finish, self._progress = pool, store_path, finish, progress
        self._pilots: set[Hashable] = set()
        self._owner: dict[Hashable, int] = {}
        self._commands: list[_Command] = []

    def run(self, commands: Sequence[Sequence[str]]) -> None:
        """Run all; the first error ends it, after jobs in flight were interrupted."""
        self._commands = [_Command(tuple(words), _needs(commands, i)) for i, words in enumerate(commands)]
        try:
            while not all(each.done for each in self._commands):
                self._begin_ready()
                ended = self._pool.wait(list(self._owner), LOOK_SECONDS) if self._owner else []
                for handle in ended:
                    self._end(handle)
                self._look()
        except BaseException:
            self._pool.cancel(list(self._owner))
            raise
        finally:
            self._progress.stop()

    def _begin_ready(self) -> None:
        for i, command in enumerate(self._commands):
            if command.begun or any(not self._commands[need].done for need in command.needs):
                continue
            command.begun = True
            if not is_shared(command.words):
                self._complete(i)
            elif command.words[0] == "finetune":
                for words in by_seed(command.words):
                    self._submit(i, Job(for_share(words), whole=True))
            else:
                self._pilots.add(self._submit(i, Job(for_share(command.words))))

    def _submit(self, i: int, job: Job) -> Hashable:
        handle = self._pool.submit(job)
        self._owner[handle] = i
        self._commands[i].jobs.add(handle)
        return handle

    def _end(self, handle: Hashable) -> None:
        """A job has ended: begin those that follow from it, or complete its command."""
        i = self._owner.pop(handle)
        command = self._commands[i]
        command.jobs.discard(handle)
        outcome = self._pool.outcome(handle)
        if outcome.error is not None:
            raise outcome.error
        if handle in self._pilots:
            self._pilots.discard(handle)
            pending = self._pending(outcome.artefacts)
            if pending and len(self._commands) == 1:
                self._start_bar(outcome.artefacts)
            for parts in split(pending, self._pool.slots * JOBS_PER_SLOT):
                self._submit(i, Job(for_share(command.words), parts))
        if not command.jobs:
            self._complete(i)

    def _complete(self, i: int) -> None:
        self._progress.stop()
        self._finish(i)
        self._commands[i].done = True

    def _pending(self, artefacts: Sequence[str]) -> list[tuple[str, int]]:
        stored = open_store(self._store) if artefacts else None
        return [(name, part) for name in artefacts if stored is not None for part in stored.get(name).pending()]

    def _start_bar(self, names: Sequence[str]) -> None:
        stored = open_store(self._store)
        self._shown = [stored.get(name) for name in names]
        self._rows = sum(each.rows_done() for each in self._shown)
        label = self._shown[0].name if len(names) == 1 else f"{len(names)} artefacts"
        total = sum(each.n for each in self._shown)
        self._progress.start(f"{label} on {self._pool.slots} processes", total=total, unit="rows", done=self._rows)

    _shown: Sequence[store.Artefact] = ()
    _rows = 0

    def _look(self) -> None:
        """Show how far the parts are that others write."""
        if self._shown and self._owner:
            rows = sum(each.rows_done() for each in self._shown)
            self._progress.advance(rows - self._rows)
            self._rows = rows


def split(pending: Sequence[tuple[str, int]], pieces: int) -> list[tuple[tuple[str, tuple[int, ...]], ...]]:
    """Parts of artefacts in at most so many even pieces, neighbours together: so a job has few artefacts."""
    count = min(pieces, len(pending))
    found = []
    for piece in range(count):
        mine = pending[piece * len(pending) // count : (piece + 1) * len(pending) // count]
        names = dict.fromkeys(name for name, _ in mine)
        found.append(tuple((name, tuple(part for own, part in mine if own == name)) for name in names))
    return found


def _needs(commands: Sequence[Sequence[str]], i: int) -> set[int]:
    """The commands before the i-th that must be done: all up to the last that is not shared, and what it may read."""
    if not is_shared(commands[i]):
        return set(range(i))
    barrier = max((j for j in range(i) if not is_shared(commands[j])), default=-1)
    return {*range(barrier + 1)} | {j for j in range(barrier + 1, i) if depends(commands[i], commands[j])}
