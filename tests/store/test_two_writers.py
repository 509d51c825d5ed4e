"""Two processes write one part with bytes that differ in rounding, one stopped half way: the record stands for one."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from store import DamagedError, Store, locks
from tests.store import kit

HALF_WAY = """
import sys, time
from pathlib import Path
import numpy as np
from store import Store, atomic
from tests.store import kit

folder, mark = Path(sys.argv[1]), Path(sys.argv[2])
artefact = Store.open(folder).get(kit.NAME)

class Slow:  # stops after the first file is in its place, until the mark is gone
    stopped = False
    def __getattr__(self, name):
        return getattr(os, name)
    def replace(self, one, other):
        os.replace(one, other)
        if not self.stopped:
            self.stopped = True
            mark.touch()
            while mark.exists():
                time.sleep(0.01)

import os
atomic.os = Slow()
artefact.write_part(0, kit.part(artefact, 0))
"""


def other_part(artefact):
    return {**kit.part(artefact, 0), "sketch": np.ones((4, 3), np.float16), "norm": np.ones(4, np.float32)}


def write_other(folder: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from store import Store; from tests.store import kit, test_two_writers as t\n"
        "a = Store.open(sys.argv[1]).get(kit.NAME); print(flush=True); a.write_part(0, t.other_part(a))"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout as told:
        told.readline()  # it begins now
    return writer


def half_way(store: Path, mark: Path) -> subprocess.Popen[bytes]:
    """A writer that has put half of its part in place, and waits as long as `mark` is there."""
    writer = subprocess.Popen([sys.executable, "-c", HALF_WAY, str(store), str(mark)])
    while not mark.exists():
        assert writer.poll() is None
        time.sleep(0.01)
    return writer


def test_a_record_stands_for_one_writers_bytes(tmp_path: Path) -> None:
    store = Store.open_or_create(tmp_path / "s", made_by="tests")
    artefact, mark = kit.make(store), tmp_path / "half way"
    first = half_way(tmp_path / "s", mark)
    second = write_other(tmp_path / "s")
    with pytest.raises(subprocess.TimeoutExpired):  # it waits for the first one
        second.wait(1)
    mark.unlink()
    assert (first.wait(60), second.wait(60)) == (0, 0)
    artefact.verify_part(0)
    assert artefact.read("norm", 0, 4).tolist() == [1, 1, 1, 1]


def test_a_killed_writer_holds_nobody_up(tmp_path: Path) -> None:
    store = Store.open_or_create(tmp_path / "s", made_by="tests")
    artefact, mark = kit.make(store), tmp_path / "half way"
    first = half_way(tmp_path / "s", mark)
    first.kill()
    first.wait()
    artefact.write_part(0, other_part(artefact))
    artefact.verify_part(0)


def test_without_locks_a_mixture_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other writer's chunk comes between ours and our record."""
    artefact = kit.make(Store.open_or_create(tmp_path / "s", made_by="tests"))

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    artefact.write_part(0, other_part(artefact))
    others = (artefact.path / "norm/c/0").read_bytes()
    publish = type(artefact)._is_written

    def between(self, i, digest):
        (artefact.path / "norm/c/0").write_bytes(others)
        return publish(self, i, digest)

    monkeypatch.setattr(type(artefact), "_is_written", between)
    artefact.write_part(0, kit.part(artefact, 0))
    assert artefact.pending() == [0, 1, 2]
    monkeypatch.undo()
    artefact.write_part(0, kit.part(artefact, 0))
    (artefact.path / "norm/c/0").write_bytes(others)
    with pytest.raises(DamagedError):  # the mixture that it would have been
        artefact.verify_part(0)
