"""A full disk: a real one where the machine lets us mount it, and one that is full after each number of bytes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import ArraySpec, Store, check, free_bytes
from tests.store import kit

MIB = 1 << 20
BIG: dict[str, Any] = {"arrays": {"sketch": ArraySpec("float16", (8192,))}, "n": 64, "part_rows": 16}  # 256 KiB a part


def sketches(i: int) -> dict[str, Any]:
    return {"sketch": np.random.default_rng(i).standard_normal((16, 8192)).astype(np.float16)}


def test_a_real_full_disk_stops_the_write_and_loses_nothing(small_disk: Path) -> None:
    artefact = kit.make(Store.open_or_create(small_disk / "med", made_by="x"), **BIG)
    artefact.write_part(0, sketches(0))
    filler = small_disk / "filler"
    filler.write_bytes(bytes(free_bytes(small_disk) - 300_000))
    artefact.write_part(1, sketches(1))
    with pytest.raises(OSError, match="No space left on device") as error:
        artefact.write_part(2, sketches(2))
    assert error.value.errno == errno.ENOSPC
    assert (artefact.pending(), list((small_disk / "med/tmp").iterdir())) == ([2, 3], [])
    assert artefact.bytes_to_write(artefact.pending()) > free_bytes(small_disk)
    assert check(Store.open(small_disk / "med")).parts == 2
    filler.unlink()
    for i in artefact.pending():
        artefact.write_part(i, sketches(i))
    assert check(Store.open(small_disk / "med")).findings == ()


def test_the_need_is_what_will_be_taken(small_disk: Path) -> None:
    artefact = kit.make(Store.open_or_create(small_disk / "med", made_by="x"), **BIG)
    need, before = artefact.bytes_to_write(artefact.pending()), free_bytes(small_disk)
    for i in artefact.pending():
        artefact.write_part(i, sketches(i))
    taken = before - free_bytes(small_disk)
    assert taken == pytest.approx(need, rel=0.05)  # folders take some


@pytest.mark.parametrize("room", range(0, 2400, 97))
def test_a_disk_that_is_full_after_some_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Every write takes what fits, then fails; after room is made the same command ends in the unbroken bytes."""
    small: dict[str, Any] = {"arrays": {name: kit.ARRAYS[name] for name in ("sketch", "row_id")}}
    kit.run(tmp_path / "unbroken", **small)
    left = [room]

    def write(handle: int, data: memoryview) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = os.write(handle, data[: left[0]])
        left[0] -= taken
        return taken

    with monkeypatch.context() as patch:
        patch.setattr("store.atomic.os.write", write, raising=False)
        with pytest.raises(OSError, match="No space left on device"):
            kit.run(tmp_path / "full", **small)
    if (tmp_path / "full/store.json").is_file():
        assert check(Store.open(tmp_path / "full")).findings == ()
    kit.run(tmp_path / "full", **small)
    assert kit.tree(tmp_path / "full") == kit.tree(tmp_path / "unbroken")
