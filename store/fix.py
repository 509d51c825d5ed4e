"""How to fix what is wrong with a store: text with actions in it, which a program names by its own commands. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Action(StrEnum):
    """What can be done with a store, or with an artefact in it."""

    CREATE = "create"
    REPAIR = "repair"
    MAKE = "make"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Do:
    """An action on the store at `path`, or on its artefact `artefact`. `str` gives the call of this package."""

    action: Action
    path: Path
    artefact: str = ""

    def __str__(self) -> str:
        match self.action:
            case Action.CREATE:
                return f"`Store.open_or_create({str(self.path)!r}, ...)`"
            case Action.REPAIR:
                path = str(self.path)
                return f"`repair_header({path!r})` and `check(Store.open({path!r}), repair=True)`"
            case Action.REMOVE:
                return f"`Store.open({str(self.path)!r}).remove({self.artefact!r})`"
            case Action.MAKE:
                return f"what makes {self.artefact}"


@dataclass(frozen=True, slots=True)
class Fix:
    """What to do, in words with the actions between them."""

    parts: tuple[str | Do, ...]

    def __str__(self) -> str:
        return self.worded(str)

    def worded(self, name: Callable[[Do], str]) -> str:
        """The text, with each action as `name` calls it."""
        return "".join(part if isinstance(part, str) else name(part) for part in self.parts)


def fix(*parts: str | Do) -> Fix:
    """A fix of these words and actions."""
    return Fix(parts)


def creating(store: Path) -> Do:
    """Make a store at this path."""
    return Do(Action.CREATE, store)


def repairing(store: Path) -> Do:
    """Write lost documents again and forget damaged parts."""
    return Do(Action.REPAIR, store)


def making(store: Path, name: str) -> Do:
    """Make the artefact, or what of it is not done."""
    return Do(Action.MAKE, store, name)


def removing(store: Path, name: str) -> Do:
    """Remove the artefact."""
    return Do(Action.REMOVE, store, name)


def giving_up(store: Path, name: str) -> Fix:
    """What is left where nothing in the store can repair it."""
    gone, again = removing(store, name), making(store, name)
    return fix("restore it from a copy, or give the artefact up: ", gone, " and then ", again, " again")


def rewriting(store: Path) -> Fix:
    """A repair that writes a document again."""
    return fix("run ", repairing(store), ", which writes it again")
