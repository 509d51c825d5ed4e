"""The folder `tmp/` of a store: names for work in flight, and the removal of what dead processes left there.

An entry is named `<host>-<pid>-<random>`. It is left over when its process is dead, or, if it was made on a
host whose processes can't be seen from here, when it is older than an hour: an entry lives while one file or
one folder is written, so for seconds. Anything else in the folder is somebody's and stays. So cleaning is
safe while others write.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
from pathlib import Path
from typing import Final

from store import atomic

STALE_SECONDS: Final = 3600
_ENTRY: Final = re.compile(r"(?P<host>[0-9a-f]{12})-(?P<pid>[0-9]+)-[0-9a-f]{16}")


class Scratch:
    """Work in flight, under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fresh(self) -> Path:
        """A path under the folder that nobody else uses; the folder is made, the path is not."""
        if not self.folder.is_dir():
            atomic.make_folder(self.folder)
        return self.folder / f"{_host()}-{os.getpid()}-{secrets.token_hex(8)}"

    def holds_only_entries(self) -> bool:
        """Whether nothing but work in flight lies in the folder."""
        return all(_ENTRY.fullmatch(name) for name in os.listdir(self.folder))

    def clean(self) -> int:
        """How many left-over entries were removed."""
        removed = 0
        with contextlib.suppress(FileNotFoundError):  # the folder, or what another cleaner took first
            for path in list(self.folder.iterdir()):
                if self._is_left_over(path):
                    _remove(path)
                    removed += 1
        return removed

    def _is_left_over(self, path: Path) -> bool:
        entry = _ENTRY.fullmatch(path.name)
        if entry is None:
            return False
        if entry["host"] == _host():
            return not _is_alive(int(entry["pid"]))
        return self._now() - path.lstat().st_mtime > STALE_SECONDS

    def _now(self) -> float:
        """The time by the clock that marks files here: of a shared disk, its server's. This host's may differ."""
        path = self.fresh()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
            return path.lstat().st_mtime
        finally:
            path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # alive, and another user's
    return True


@functools.cache
def _host() -> str:
    """12 hex digits that stand for this host and its process table: containers share names, not processes."""
    table = ""
    with contextlib.suppress(OSError):
        table = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{socket.gethostname()} {table}".encode()).hexdigest()[:12]
