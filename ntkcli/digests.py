"""Digests of files, remembered in the user's cache, and the watch that a file did not change while it was used.

Digests are remembered by path, size, mtime and inode: 16 GB of weights are read once, not daily. Must not know what
the files are.
"""

from __future__ import annotations

import hashlib
import os
from contextvars import ContextVar
from pathlib import Path

import store
from ntkcli.errors import NtkselError
from ntkcli.notes import note
from ntkcli.paths import home
from ntkcli.progress import ShownFile

EXACT: ContextVar[bool] = ContextVar("EXACT", default=False)
"""Whether every digest is computed anew, whatever is remembered: `ntksel --exact-digests`."""

CACHE_FIX = "Set NTKSEL_CACHE to a folder that can be written."

_LARGE_BYTES = 256 << 20
"""Of a file from which computing its digest is shown: about a second."""
_Stamp = tuple[int, int, int] | None
"""Size, mtime and inode of a file; None if there is none."""


def cache_dir() -> Path | None:
    """The folder for what can be made again: `$NTKSEL_CACHE`, else `$XDG_CACHE_HOME/ntksel`, else ~/.cache/ntksel.

    None where neither variable is set and the user has no home folder.
    """
    if own := os.environ.get("NTKSEL_CACHE"):
        return Path(home(own))
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "ntksel"
    try:
        return Path.home() / ".cache" / "ntksel"
    except RuntimeError:  # no HOME, and no entry in the system's list of users
        return None


def digest_file(path: Path) -> str:
    """SHA-256 of a file as 32 hex digits, remembered by path, size, mtime and inode (unless EXACT).

    Raises:
        NtkselError: the file changed while it was read.
    """
    stamp = _stamp(path)
    memo = _memo(path, stamp)
    if not EXACT.get() and (known := _recall(memo)) is not None:
        return known
    digest = hash_file(path)
    if _stamp(path) != stamp:
        raise _changed(path)
    _remember(memo, digest)
    return digest


def hash_file(path: Path) -> str:
    """SHA-256 of a file as 32 hex digits, read whole."""
    digest = hashlib.sha256()
    feed(digest, path)
    return digest.hexdigest()[:32]


def feed(digest: hashlib._Hash, path: Path) -> None:
    """Give a hash a whole file, and show how far it is."""
    with ShownFile(path, label=f"digest of {path.name}", after=_LARGE_BYTES // 2) as file:
        hashlib.file_digest(file, lambda: digest)


class Watch:
    """Files as they were when their digests were taken, to be asked again once they have been used."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[_Stamp, str | None]] = {}

    def digest(self, path: Path) -> str:
        """`digest_file` of a file, which is watched from here on."""
        stamp = _stamp(path)
        digest = digest_file(path)
        self._seen[path] = stamp, digest
        return digest

    def add(self, path: Path) -> None:
        """Watch a file without its digest; one that is missing must stay missing."""
        self._seen[path] = _stamp(path), None

    def require_unchanged(self) -> None:
        """Raise NtkselError if a file was changed, exchanged, made or removed since it is watched.

        By size, mtime and inode; where EXACT is set the digests are taken again.
        """
        for path, (stamp, digest) in self._seen.items():
            if _stamp(path) != stamp or (EXACT.get() and digest is not None and digest_file(path) != digest):
                raise _changed(path)


def _changed(path: Path) -> NtkselError:
    return NtkselError(
        f"{path} was changed while it was read, so its digest may not be of the bytes that would be computed from.",
        "Nothing was written from it. Run the same command again when nothing writes to the file.",
    )


def _stamp(path: Path) -> _Stamp:
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _memo(path: Path, stamp: _Stamp) -> Path | None:
    folder = cache_dir()
    if folder is None or stamp is None:
        return None
    seen = f"{path.resolve()}|{stamp[0]}|{stamp[1]}|{stamp[2]}"
    return folder / "digests" / hashlib.sha256(seen.encode(errors="surrogateescape")).hexdigest()[:32]


def _recall(memo: Path | None) -> str | None:
    try:
        known = "" if memo is None else memo.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return known if len(known) == 32 else None


def _remember(memo: Path | None, digest: str) -> None:
    """Keep a digest. A cache that can't be written costs time at the next command, and nothing else."""
    if memo is None:
        note(f"digests are not remembered: this user has no home folder. {CACHE_FIX}")
        return
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        store.write_bytes(memo, digest.encode())
    except OSError as error:
        note(f"digests are not remembered: {memo.parent} can't be written ({error.strerror or error}). {CACHE_FIX}")
