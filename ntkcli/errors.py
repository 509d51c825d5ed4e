"""What can go wrong, and the exit code a script sees. Nothing here prints or exits: `ntkcli.app` does."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command; part of the interface that scripts rely on."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    ROWS_SKIPPED = 3
    INCOMPLETE = 10
    BUSY = 11
    SPEC_DIFFERS = 12
    INTERRUPTED = 130


class NtkselError(Exception):
    """A failure that the user can fix: `what` was found and what it means, and how to `fix` it.

    Shown as one line below its `details`, a line each, without a traceback (unless `-v`). Subclasses set the exit
    code.
    """

    code = ExitCode.FAILURE

    def __init__(self, what: str, fix: str = "", *, details: Sequence[str] = ()) -> None:
        super().__init__(what if not fix else f"{what} {fix}")
        self.what = what
        self.fix = fix
        self.details = tuple(details)

    def __reduce__(self) -> tuple[type[NtkselError], tuple[str, str], dict[str, Sequence[str]]]:
        """So that the error survives pickling between processes, with its fix."""
        return type(self), (self.what, self.fix), {"details": self.details}


class UsageError(NtkselError):
    """An option's value can't be used: a missing file, a name with a slash, N larger than the pool."""

    code = ExitCode.USAGE


class DataError(NtkselError):
    """A data file holds rows that can't be used; nothing was written."""

    code = ExitCode.FAILURE


class IncompleteError(NtkselError):
    """There is no store, or an input in it is missing or not complete yet."""

    code = ExitCode.INCOMPLETE


class BusyError(NtkselError):
    """Another process is doing this very thing, and two can't at once."""

    code = ExitCode.BUSY


class SpecError(NtkselError):
    """Two things that must be made the same way are not; each field that differs is named."""

    code = ExitCode.SPEC_DIFFERS


def require_text(reference: str) -> None:
    """UsageError if a path holds bytes that are not UTF-8: the store keeps paths as text."""
    if not reference.isascii() and any("\ud800" <= char <= "\udfff" for char in reference):
        raise UsageError(f"{reference}: the name is not UTF-8, and the store keeps names as text.", "Rename it.")


class DivergedError(NtkselError):
    """A training's loss or weights are not finite."""


def parsing_message(error: Exception) -> str | None:
    """What click or typer says of options that it can't parse, as a sentence; None for any other error."""
    if not hasattr(error, "format_message"):
        return None
    return str(error.format_message()).replace("Value error, ", "").removesuffix(".") + "."  # pydantic's, in typer


NAMED = 5
"""Rows that an error names; the others are counted."""


def listed(names: Sequence[str]) -> str:
    """The first names, and how many there are more: "a, b, c, d, e and 3 more"."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
