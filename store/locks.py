"""A lock that the system drops with its process, so that none goes stale; and what file systems without locks say."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

NO_LOCKS: Final = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What file systems without locks answer: NFS without its lock server, Lustre without -o flock, some of FUSE."""


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Wait for the lock of the file `path`, made where it is missing, and hold it. False where there are no locks.

    Threads exclude each other too.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            locked = False
        yield locked
