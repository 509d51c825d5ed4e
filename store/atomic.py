"""Durable file primitives: what these return from survives a kill and a power cut. Knows nothing of Zarr.

Every file of a store is written through `os` as this module sees it, so that tests can put a failing one in
its place (tests/faults.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

_SYNCS_AT_ONCE: Final = 16  # two or three for each array of a part; a sync waits and costs no processor
_LARGE_BYTES: Final = 1 << 22  # some milliseconds of a disk's time; a sync more costs as much
_TAKEN: Final = {errno.EEXIST, errno.ENOTEMPTY}
_NO_FOLDER_SYNC: Final = {errno.EINVAL, errno.ENOTSUP}  # some network file systems
_NO_EXCHANGE: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux: paths from the working directory; both must exist, and swap
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}


class Batch:
    """Files that become durable together, each whole or not at all; nothing shows before `publish`.

    Their syncs run side by side and so share the flushes of the disk: on an ext4 cloud disk 8 folders took 30 ms
    one after the other, 1 to 5 ms so. All files lie under `base`, which exists; the folders between are made.
    `temp` gives the paths they are written to first, on the same file system; by default beside the file.
    """

    def __init__(self, base: Path, temp: Callable[[], Path] | None = None) -> None:
        self._base = base
        self._temp = temp
        self._files: dict[Path, Path] = {}  # final path -> temporary path
        self._syncs: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(_SYNCS_AT_ONCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for temp in self._files.values():
            _discard(temp)

    def add(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        """Write `pieces`, joined, to a temporary file; its sync goes on in the background.

        It begins after each large piece, while the next one is made.
        """
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        temp = self._files[path] = self._temp() if self._temp else beside
        begun: list[Future[None]] = []

        def begin(handle: int) -> None:
            begun.append(self._pool.submit(os.fsync, handle))

        handle = _write_new(temp, pieces, on_large=begin)
        self._syncs.append(self._pool.submit(_sync_and_close, handle, after=begun))

    def settle(self) -> None:
        """Wait until the bytes of all files are durable; none is in its place yet."""
        for sync in self._syncs:
            sync.result()

    def publish(self) -> None:
        """Put every file in its place, durable."""
        self.settle()
        folders = sorted({folder for path in self._files for folder in self._folders(path)})
        for folder in folders[1:]:  # parents first; the base exists
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
        for path in list(self._files):
            os.replace(self._files[path], path)
            del self._files[path]
        # Also folders that stood before: whoever made them may have been killed before the sync.
        list(self._pool.map(sync_folder, folders))

    def _folders(self, path: Path) -> Iterator[Path]:
        """The base and every folder between it and `path`."""
        folder = path.parent
        while folder != self._base:
            yield folder
            folder = folder.parent
        yield self._base


def write_bytes(path: Path, *pieces: bytes | memoryview, temp: Callable[[], Path] | None = None) -> None:
    """Put `pieces`, joined, at `path`: whole and durable, or not at all. `temp` as for Batch."""
    write_pieces(path, pieces, temp=temp)


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], temp: Callable[[], Path] | None = None) -> None:
    """As `write_bytes`, of pieces that are made one after the other."""
    with Batch(path.parent, temp) as batch:
        batch.add(path, pieces)
        batch.publish()


def publish_new(path: Path, data: bytes, *, temp: Path) -> bool:
    """Put `data` at `path`, durable; False, and nothing changed, if a file is there."""
    try:
        _sync_and_close(_write_new(temp, [data]))
        try:
            os.link(temp, path)
        except FileExistsError:
            return False
        except OSError as error:  # no hard links here: of two creators at once the later one wins, whole
            if error.errno not in _NO_LINKS:
                raise
            if path.exists():
                return False
            os.replace(temp, path)
    finally:
        _discard(temp)
        sync_folder(path.parent)
    return True


def publish_dir(temp: Path, final: Path) -> bool:
    """Make the folder `temp`, with all in it, durable as `final`; False if that is taken, and `temp` deleted.

    The parent of `final` must exist, on the same file system.
    """
    fsync_tree(temp)
    try:
        os.rename(temp, final)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        shutil.rmtree(temp)
        return False
    finally:
        sync_folder(final.parent)  # also when taken: the other writer may not have got to it yet
    return True


def free_bytes(path: Path) -> int:
    """Bytes that the disk of `path` still takes from this user; as good as endless where it does not say."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize if disk.f_blocks else sys.maxsize


def make_folder(path: Path) -> None:
    """Make `path` and its missing parents, durable; nothing if it exists.

    The entry is synced even then: whoever made the folder may have been killed before doing so.
    """
    try:
        os.mkdir(path)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_folder(path.parent)
        make_folder(path)
        return
    sync_folder(path.parent)


def withdraw_dir(path: Path, temp: Path) -> None:
    """Delete the folder `path`, gone at once and whole: it is renamed to `temp` first."""
    os.rename(path, temp)
    sync_folder(path.parent)
    shutil.rmtree(temp)


def replace_dir(temp: Path, final: Path) -> None:
    """Make the folder `temp`, with all in it, durable in the place of the folder `final`, which is deleted.

    At once where the file system can exchange two folders; else a kill can leave `final` under `aside_of`, from where
    `restore_aside` puts it back.
    """
    fsync_tree(temp)
    if _exchange(temp, final):
        sync_folder(final.parent)
        sync_folder(temp.parent)
        shutil.rmtree(temp)
        return
    aside = aside_of(final)
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(final, aside)
    os.rename(temp, final)
    sync_folder(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def aside_of(folder: Path) -> Path:
    """Where a folder stands while another one takes its place: no name of an artefact."""
    return folder.with_name(f"{folder.name}~")


def restore_aside(folder: Path) -> None:
    """Put a folder back that a killed `replace_dir` left aside; delete it if its place is taken."""
    aside = aside_of(folder)
    if not aside.is_dir():
        return
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        return
    os.rename(aside, folder)
    sync_folder(folder.parent)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it no other process holds the lock of the folder, where the file system has locks; a kill gives it up."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def link_draft(source: Path, path: Path) -> None:
    """Put a file, and the folders it needs, into a folder that will be published: a link, or a copy if none can be."""
    os.makedirs(path.parent, exist_ok=True)
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in {*_NO_LINKS, errno.EMLINK, errno.EXDEV}:
            raise
        os.close(_write_new(path, [source.read_bytes()]))


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders take each other's place at once; False if this system or file system has no way to."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def remove_file(path: Path) -> None:
    """Delete the file at `path`, durably; nothing if there is none."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        sync_folder(path.parent)


def write_draft(path: Path, data: bytes) -> None:
    """Write a file, and the folders it needs, of a folder that `publish_dir` will make durable."""
    os.makedirs(path.parent, exist_ok=True)
    os.close(_write_new(path, [data]))


def fsync_tree(folder: Path) -> None:
    """Make every file and folder under `folder`, and itself, durable."""
    walk = [(Path(root), files) for root, _, files in os.walk(folder)]
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        list(pool.map(_sync_file, [root / name for root, files in walk for name in files]))
        list(pool.map(sync_folder, [root for root, _ in walk]))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder; another process's temporary files that vanish meanwhile count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def sync_folder(path: Path) -> None:
    """Make the entries of the folder `path` durable, where the file system has a way to."""
    try:
        _sync_and_close(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _sync_file(path: Path) -> None:
    _sync_and_close(os.open(path, os.O_RDONLY))


def _sync_and_close(handle: int, after: Sequence[Future[None]] = ()) -> None:
    """Sync and close; `after` are syncs of the same handle, whose errors count."""
    try:
        for sync in after:
            sync.result()
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_new(
    path: Path, pieces: Iterable[bytes | memoryview], *, on_large: Callable[[int], None] = lambda _: None
) -> int:
    """The handle of the new file `path`, with all `pieces` in it, not synced; `on_large` gets it after large ones."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest.nbytes:  # a write may take less than it is given (2 GiB on Linux)
                rest = rest[os.write(handle, rest) :]
            if memoryview(piece).nbytes >= _LARGE_BYTES:
                on_large(handle)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _discard(temp: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(temp)
