"""What a long step tells its caller while it works. Steps never print; `ntkcli.console` shows this.

A step is given its `Progress`. What may take long far below any step (a file that is read, a digest, the weights of a
model) is shown by `shown` and `ShownFile` where the command has said where (`show_below_with`), else nowhere.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final, Protocol, TypeVar

Item = TypeVar("Item")
_AT_ONCE: Final = 256
"""Items between two looks at the clock, for work of microseconds each."""
_MIB: Final = 1 << 20
_BUFFER_BYTES: Final = 1 << 18


class Progress(Protocol):
    """Receives the progress of one step. A step calls `start` once, then `advance` as work is done."""

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
    """The items, with their progress shown: `total` are expected."""
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


_BELOW: ContextVar[Callable[[], Progress] | None] = ContextVar("_BELOW", default=None)


def show_below_with(progress: Callable[[], Progress]) -> None:
    """From here on, in this context, `shown` asks for a `Progress` here; it may be one that shows nothing."""
    _BELOW.set(progress)


@contextmanager
def shown(label: str, *, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Work below any step; yields what is to be called with each amount that is done."""
    ask = _BELOW.get()
    progress: Progress = Silent() if ask is None else ask()
    progress.start(label, total=total, unit=unit)
    try:
        yield progress.advance
    finally:
        progress.stop()


def counted_below(items: Iterable[Item], label: str, total: int, *, unit: str = "rows") -> Iterator[Item]:
    """The items, each some work below any step: `total` are expected."""
    with shown(label, total=total, unit=unit) as advance:
        for item in items:
            yield item
            advance(1)


class ShownFile(io.FileIO):
    """A file to read, with a bar once `after` bytes have been read, if there are as many again to come."""

    def __init__(self, path: Path, *, label: str, after: int) -> None:
        super().__init__(path, "rb")
        self._label, self._after, self._size = label, after, os.fstat(self.fileno()).st_size
        self._read = self._told = 0
        self._shown = ExitStack()
        self._advance: Callable[[int], None] | None = None

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # it takes any buffer
        """As `io.FileIO` has it."""
        count = super().readinto(buffer)
        self._read += count
        if self._advance is None and self._after <= self._read and 2 * self._after <= self._size:
            total = -(-self._size // _MIB)
            self._advance = self._shown.enter_context(shown(self._label, total=total, unit="MiB"))
        if self._advance is not None and (more := self._read // _MIB - self._told):
            self._told += more
            self._advance(more)
        return count

    def close(self) -> None:
        """Take the bar away, too."""
        if not self.closed:
            self._shown.close()
        super().close()

    def buffered(self) -> io.BufferedReader:
        """The same to read lines from."""
        return io.BufferedReader(self, _BUFFER_BYTES)
