"""Turns of processes that hold one model together: it computes in all of them at once, or in none.

One that has nothing left to compute goes on computing something small until the others are done. What a turn raises
can't be told to the others, who wait within their own: the process ends, and its launcher ends them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ntkcli.engine.memory import out_of_memory
from ntkcli.errors import NtkselError
from ntkcli.group import ALONE, Group


class Lockstep:
    """The turns of one process of a group; of a process alone, nothing."""

    def __init__(self, processes: Group = ALONE) -> None:
        self._processes, self._idle = processes, False
        self.every_forward = False  # each forward of the decoder is a turn: for evaluation, where nothing follows it

    @property
    def alone(self) -> bool:
        """Whether there is nobody to keep step with."""
        return self._processes.count == 1

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Run the model within, as often as every other process does in its turn. Errors of the group.

        Raises:
            NtkselError: memory ran out: a smaller batch would come too late for the others.
        """
        if self.alone or self._idle:
            yield
            return
        self._processes.working(me=True)
        with self._computing():
            yield

    def finish(self, idle: Callable[[], object]) -> None:
        """Take part in the others' turns until none has any left: `idle` runs the model as often as one turn does."""
        if self.alone:
            return
        self._idle = True
        while self._processes.working(me=False):
            with self._computing():
                idle()
        self._idle = False

    @contextmanager
    def _computing(self) -> Iterator[None]:
        try:
            with self._processes.untold():
                yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise NtkselError(
                "Memory ran out in a batch of a model that is shared between processes, where none can go on alone.",
                "Start the command again with a smaller --batch-tokens: it continues with the parts that are missing.",
            ) from error
