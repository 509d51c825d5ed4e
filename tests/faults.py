"""A file system that fails: what `store.atomic` writes through, stopped at one operation, with or without power loss.

`with failing_at(k) as disk:` lets k operations pass and raises Crash at the next one and at every later one, as no
code of a killed process runs on. `power_loss=True` then also takes back what was never synced: a file loses the
second half of its bytes, a new name in a folder is gone. Syncs are counted and believed, not carried out.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock


class Crash(OSError):  # noqa: N818 - not an error but an end
    """The process ended here."""


class FaultyOs:
    """The module `os` as `store.atomic` uses it; all that changes the disk is counted, and may fail."""

    def __init__(self, passes: int | None = None) -> None:
        self.passes = passes
        self.operations = 0
        self._lock = threading.Lock()
        self._paths: dict[int, Path] = {}  # open handle -> path
        self._dirty: set[int] = set()  # inodes whose bytes were not synced
        self._unsynced: list[tuple[Path, Callable[[], None]]] = []  # (folder, how to take the entry back)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @property
    def crashed(self) -> bool:
        return self.passes is not None and self.operations > self.passes

    def _count(self) -> None:
        self.operations += 1
        if self.crashed:
            raise Crash(f"operation {self.operations}")

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        with self._lock:
            if flags & os.O_CREAT:
                self._count()
            handle = os.open(path, flags, mode)
            self._paths[handle] = Path(path)
            return handle

    def write(self, handle: int, data: memoryview) -> int:
        with self._lock:
            self._count()
            self._dirty.add(os.fstat(handle).st_ino)
            return os.write(handle, data)

    def fsync(self, handle: int) -> None:
        with self._lock:
            self._count()
            self._dirty.discard(os.fstat(handle).st_ino)
            folder = self._paths[handle]
            self._unsynced = [entry for entry in self._unsynced if entry[0] != folder]

    def mkdir(self, path: Path) -> None:
        with self._lock:
            self._count()
            os.mkdir(path)
            self._unsynced.append((path.parent, lambda: shutil.rmtree(path)))

    def makedirs(self, path: Path, exist_ok: bool = False) -> None:  # noqa: ARG002
        for folder in [*reversed(path.parents), path]:
            if not folder.exists():
                self.mkdir(folder)

    def replace(self, source: Path, target: Path) -> None:
        with self._lock:
            self._count()
            before = target.read_bytes() if target.exists() else None
            os.replace(source, target)
            self._unsynced.append((target.parent, lambda: _put_back(target, before)))

    def link(self, source: Path, target: Path) -> None:
        with self._lock:
            self._count()
            os.link(source, target)
            self._unsynced.append((target.parent, target.unlink))

    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            self._count()
            os.rename(source, target)
            self._unsynced.append((target.parent, lambda: os.rename(target, source)))

    def unlink(self, path: Path) -> None:
        with self._lock:
            self._count()
            before = Path(path).read_bytes()
            os.unlink(path)
            self._unsynced.append((Path(path).parent, lambda: _put_back(Path(path), before)))

    def lose_power(self, root: Path, draw: random.Random | None = None) -> None:
        """Take back, under `root`, all that was not synced; with `draw` each new name only by a toss of a coin."""
        for path in list(root.rglob("*")):
            if path.is_file() and path.stat().st_ino in self._dirty:
                os.truncate(path, path.stat().st_size // 2)
        for _, undo in reversed(self._unsynced):
            if draw and draw.random() < 0.5:
                continue
            with contextlib.suppress(FileNotFoundError):
                undo()


def _put_back(path: Path, before: bytes | None) -> None:
    if before is None:
        path.unlink()
    else:
        path.write_bytes(before)


@contextlib.contextmanager
def failing_at(passes: int | None) -> Iterator[FaultyOs]:
    """`store.atomic` on a FaultyOs, whose Crash ends the block quietly; None: never fails, only counts."""
    disk = FaultyOs(passes)
    with mock.patch("store.atomic.os", disk), contextlib.suppress(Crash):
        yield disk
