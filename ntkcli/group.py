"""Processes that compute one thing together, each a share of it: what a caller knows of the others. No torch here.

`Group` itself is a process alone, which waits for nobody; `ntkcli.engine.process_group` has the others. All processes
of a group make the same calls in the same order. Where one of them fails, the others learn it at their next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ntkcli.errors import NtkselError

T = TypeVar("T")


class ToldElsewhereError(NtkselError):
    """Another process of the group has failed, and says why: this one ends without a word."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what)
        self.code = code  # type: ignore[assignment]  # the other process's


class Group:
    """A process alone: number `index` of `count`."""

    index, count = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, shows and decides."""
        return self.index == 0

    def check(self) -> None:
        """Go on when all processes are here. ToldElsewhereError if one has failed."""

    def agree(self, value: T) -> list[T]:
        """The values of all processes, by their numbers. ToldElsewhereError as `check`."""
        return [value]

    def first_says(self, make: Callable[[], T]) -> T:
        """What the first process makes, which the others get; they don't call `make`. Errors as `check`."""
        return make()

    def add_up(self, tensor: Any) -> Any:
        """The sum of the processes' tensors, each of one shape and dtype, on this one's device. Errors as `check`."""
        return tensor

    @property
    def apart(self) -> bool:
        """Whether each process has a device of its own."""
        return True

    def working(self, *, me: bool) -> int:
        """How many processes have work left; `me`: whether this one has. Errors as `check`."""
        return int(me)

    @contextmanager
    def untold(self) -> Iterator[None]:
        """Within, the processes compute in step: an error can't be told, and ends this process alone."""
        yield

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Within, an error of this process ends the others too, and one of them reports it."""
        yield

    def require_same(self, value: str, what: str) -> None:
        """NtkselError if the processes were given different values of `what`."""
        if len(set(self.agree(value))) > 1:
            raise NtkselError(
                f"The {self.count} processes have different {what}.",
                "Start each with the same command, data, model, kind of device and versions of ntksel and libraries.",
            )

    def share(self, units: Sequence[int], sizes: Sequence[int]) -> list[int]:
        """This process's share of the `units`, whose `sizes` are given by unit; all of them in order if it is alone.

        Longest first, dealt out there and back, so that the shares take about as long: (0, 1, 1, 0, 0, 1, ...).
        """
        if self.count == 1:
            return list(units)
        order = sorted(units, key=lambda unit: -sizes[unit])  # stable
        there_and_back = [*range(self.count), *reversed(range(self.count))]
        return [unit for i, unit in enumerate(order) if there_and_back[i % len(there_and_back)] == self.index]


ALONE = Group()
