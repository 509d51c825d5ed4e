"""File systems without locks: a training goes on with a note, and a second one on this machine is still refused."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO, Any

import pytest

from ntkcli import notes
from ntkcli.errors import BusyError
from ntkcli.steps.training.run import alone


@pytest.fixture
def no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes flock fail in the test's folder as it does on such a file system."""
    (tmp_path / "temp").mkdir()
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    monkeypatch.setattr(notes, "_SHOWN_WITHOUT_A_COMMAND", set())
    real = fcntl.flock

    def fail_with(code: int) -> Path:
        def flock(file: IO[Any], how: int) -> None:
            if Path(os.readlink(f"/proc/self/fd/{file.fileno()}")).is_relative_to(tmp_path / "disk"):
                raise OSError(code, os.strerror(code))
            real(file, how)

        monkeypatch.setattr(fcntl, "flock", flock)
        return tmp_path / "disk" / "run"

    return fail_with


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_it_goes_on(no_locks: Any, code: int, caplog: pytest.LogCaptureFixture) -> None:
    folder = no_locks(code)
    with alone(folder):
        assert f"the file system of {folder} has no locks" in caplog.text
        with pytest.raises(BusyError, match="Another process is training run"), alone(folder):
            pass
        with alone(folder.with_name("other")):
            pass
    with alone(folder):  # it is free again
        pass


def test_other_errors_are_errors(no_locks: Any) -> None:
    with pytest.raises(OSError, match="Input/output"), alone(no_locks(errno.EIO)):
        pass
