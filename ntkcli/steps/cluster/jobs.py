"""A job: a command, or parts of what it makes; what came of it; and what a pool of processes must be able to do."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Job:
    """The words of a command behind `ntksel`. `parts`: of these artefacts these parts alone; None: the first alone.

    With `whole` the command runs to its end, as a training does.
    """

    words: tuple[str, ...]
    parts: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The artefacts that a job's command makes, as far as it has parts of its own; or the error that ended it."""

    artefacts: tuple[str, ...] = ()
    error: Exception | None = None


class Pool(Protocol):
    """Processes that run jobs, at most `slots` at a time; jobs beyond wait."""

    slots: int

    def submit(self, job: Job) -> Hashable:
        """Begin a job, or let it wait for a place; a handle of it."""

    def wait(self, handles: Sequence[Hashable], seconds: float) -> list[Hashable]:
        """Those of the handles whose jobs have ended, after at most so long."""

    def outcome(self, handle: Hashable) -> Outcome:
        """What came of a job that has ended; a job whose machine was lost again and again has an error."""

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Interrupt these jobs as Ctrl-C does, and return when they have ended."""
