"""What a long step tells its caller while it works. Steps never print; `ntkcli.console` shows this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeVar

Item = TypeVar("Item")
_AT_ONCE: Final = 256
"""Items between two looks at the clock, for work of microseconds each."""


class Progress(Protocol):
    """Receives the course of one step. A step calls `start` once, then `advance` as work is done."""

    def start(self, label: str, *, total: int, unit: str, done: int = 0) -> None:
        """The step `label` has `total` units of work, `done` of them found finished."""

    def advance(self, count: int, *, tokens: int = 0, note: str = "") -> None:
        """`count` more units are done, in which `tokens` tokens were computed; `note` is shown beside."""

    def stop(self) -> None:
        """The step has ended, one way or the other."""

    def note(self, text: str) -> None:
        """One line that the user should read: what was found on resume, what was left out."""


class Silent:
    """The `Progress` of a caller who wants none."""

    def start(self, label: str, *, total: int, unit: str, done: int = 0) -> None:
        """Nothing is shown."""

    def advance(self, count: int, *, tokens: int = 0, note: str = "") -> None:
        """Nothing is shown."""

    def stop(self) -> None:
        """Nothing is shown."""

    def note(self, text: str) -> None:
        """Nothing is shown."""


def counted(items: Iterable[Item], progress: Progress, label: str, *, total: int, unit: str) -> Iterator[Item]:
    """The items, their course shown: `total` are expected."""
    progress.start(label, total=total, unit=unit)
    try:
        for number, item in enumerate(items, start=1):
            yield item
            if number % _AT_ONCE == 0:
                progress.advance(_AT_ONCE)
        progress.advance(total % _AT_ONCE)
    finally:
        progress.stop()


def advancing(items: Iterable[Item], progress: Progress) -> Iterator[Item]:
    """The items of a step that has started, each a unit of its work."""
    number = 0
    for number, item in enumerate(items, start=1):
        yield item
        if number % _AT_ONCE == 0:
            progress.advance(_AT_ONCE)
    progress.advance(number % _AT_ONCE)
