"""The parts of an artefact, read into a few buffers by whichever thread needs them first."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

from numpy.typing import NDArray

import store

Arrays = dict[str, NDArray[Any]]


class Buffers:
    """As many buffers of a part's size as `count`; each is made when it is first needed."""

    def __init__(self, artefact: store.Artefact, arrays: list[str], *, count: int) -> None:
        self.artefact, self._names = artefact, arrays
        self._free: SimpleQueue[Arrays | None] = SimpleQueue()
        for _ in range(count):
            self._free.put(None)

    def take(self) -> Arrays:
        """One that nobody uses, as soon as there is one."""
        return self._free.get() or {name: self.artefact.empty_part(name) for name in self._names}

    def give_back(self, buffer: Arrays) -> None:
        """For others."""
        self._free.put(buffer)


class SharedPart:
    """Part `i`, for `users` threads: the first reads it, the last gives its buffer back."""

    def __init__(self, buffers: Buffers, i: int, *, users: int) -> None:
        self._buffers, self._i, self._users = buffers, i, users
        self._buffer: Arrays | None = None
        self._arrays: Arrays | None = None
        self._lock = threading.Lock()

    def arrays(self) -> Arrays:
        """The part's rows, checked. DamagedError for every user if it is damaged."""
        with self._lock:
            if self._arrays is None:
                self._buffer = self._buffer or self._buffers.take()
                self._arrays = self._buffers.artefact.read_part_into(self._buffer, self._i)
            return self._arrays

    def done(self) -> None:
        """One of the users is; each says so once."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._buffer is not None:
                self._buffers.give_back(self._buffer)
