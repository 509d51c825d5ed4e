"""A kill or a power cut at any instant loses at most the part in flight; the re-run ends in the same bytes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import DamagedError, Store, documents
from tests.faults import failing_at
from tests.store import kit
from tests.store.kills import kill_again_and_again

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "arrays": {name: kit.ARRAYS[name] for name in ("sketch", "row_id")},
    "n": 6,
}  # two parts, one of them short


def unbroken(path: Path, **changes: Any) -> tuple[dict[str, bytes], int]:
    """The bytes of a run that nothing stopped, and how many operations it took."""
    with failing_at(None) as disk:
        kit.run(path, **changes)
    return kit.tree(path), disk.operations


def check_recorded_parts(path: Path) -> None:
    """What has a record is whole: invariant 1 of the format."""
    if (path / "store.json").is_file():
        for artefact in Store.open(path).artefacts():
            for i in artefact.done().nonzero()[0].tolist():
                artefact.verify_part(i)


@pytest.mark.parametrize("power_loss", [False, True], ids=["killed", "power lost"])
def test_stopped_at_every_operation(tmp_path: Path, power_loss: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = documents.array_documents(SMALL["arrays"], SMALL["n"], kit.PART_ROWS)
    monkeypatch.setattr(documents, "array_documents", lambda *_: made)  # once for all: it takes the most time
    expected, operations = unbroken(tmp_path / "unbroken", **SMALL)
    assert operations > 50
    path = tmp_path / "stopped"
    for stop in range(operations):
        finished: list[int] = []
        with failing_at(stop) as disk:
            artefact = kit.make(Store.open_or_create(path, made_by="ntksel test"), **SMALL)
            for i in artefact.pending():
                artefact.write_part(i, kit.part(artefact, i))
                finished.append(i)
        assert disk.crashed
        if power_loss:
            disk.lose_power(path, draw=random.Random(stop) if stop % 2 else None)
        check_recorded_parts(path)
        again = kit.make(Store.open_or_create(path, made_by="ntksel test"), **SMALL)
        assert not set(finished) & set(again.pending()), f"a finished part was lost at operation {stop}"
        kit.fill(again)
        assert kit.tree(path) == expected, f"stopped at operation {stop}"
        shutil.rmtree(path)


def test_stopped_while_a_part_is_replaced_by_other_rows(tmp_path: Path) -> None:
    """No record vouches for rows of both."""
    artefact = kit.run(tmp_path, **SMALL)
    zeros = {**kit.part(artefact, 0), "sketch": np.zeros((kit.PART_ROWS, 3), np.float16)}
    disk, stop = None, 0
    while disk is None or disk.crashed:
        kit.run(tmp_path, **SMALL).write_part(0, kit.part(artefact, 0))
        with failing_at(stop) as disk:
            artefact.write_part(0, zeros)
        check_recorded_parts(tmp_path)
        stop += 1
    assert stop > 10
    assert not artefact.read("sketch", 0, 4).any()


def test_stopped_again_and_again(tmp_path: Path) -> None:
    expected, _ = unbroken(tmp_path / "unbroken")
    path, passes = tmp_path / "broken", 20
    while True:
        with failing_at(passes) as disk:
            kit.run(path)
        if not disk.crashed:
            break
        check_recorded_parts(path)
        passes += 9
    assert kit.tree(path) == expected


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    artefact = kit.make(Store.open_or_create(tmp_path / "med", made_by="x"))
    blocked = artefact.path / "sketch" / "c"
    blocked.write_text("in the way")
    with pytest.raises(OSError, match="sketch"):
        kit.fill(artefact)
    assert list((tmp_path / "med" / "tmp").iterdir()) == []
    assert artefact.pending() == [0, 1, 2]


def test_a_part_whose_sync_fails_is_not_recorded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = kit.make(store)

    def fsync(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "the disk failed")

    monkeypatch.setattr("store.atomic.os.fsync", fsync)
    with pytest.raises(OSError, match="the disk failed"):
        artefact.write_part(0, kit.part(artefact, 0))
    assert artefact.pending() == [0, 1, 2]
    assert list((store.path / "tmp").iterdir()) == []


def test_thirty_real_kills(tmp_path: Path) -> None:
    """SIGKILL at random moments; several stores get through in between, each with the bytes of an unbroken run."""
    seen: list[int] = []
    assert kill_again_and_again(tmp_path, 30, seed=0, on_kill=seen.append) >= 2
    assert seen == list(range(1, 31))


def _race(path: Path, start: float, digests: multiprocessing.SimpleQueue[tuple[str, str]]) -> None:
    time.sleep(max(start - time.time(), 0))
    artefact = kit.run(path)
    digests.put((Store.open(path).id, artefact.digest()))


def test_four_writers_at_once_give_one_store_and_the_same_bytes(tmp_path: Path) -> None:
    expected, _ = unbroken(tmp_path / "unbroken")
    context = multiprocessing.get_context("spawn")
    digests = context.SimpleQueue()
    start = time.time() + 1.5  # until both have imported everything
    writers = [context.Process(target=_race, args=(tmp_path / "med", start, digests)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert len({digests.get() for _ in writers}) == 1
    assert kit.tree(tmp_path / "med") == expected
    assert list((tmp_path / "med" / "tmp").iterdir()) == []


def test_the_second_to_publish_gets_the_first_ones(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other writer creates the artefact between our look and our rename."""
    make_groups, others = Store.make_groups, []

    def late(self: Store, names: list[str]) -> None:
        make_groups(self, names)
        if names and not others:
            others.append(None)
            others.append(kit.make(store, plan={"batch_tokens": 1}))

    monkeypatch.setattr(Store, "make_groups", late)
    assert kit.make(store).plan == {"batch_tokens": 1}
    assert list((store.path / "tmp").iterdir()) == []


def test_a_lost_chunk_is_never_taken_for_zeros(store: Store) -> None:
    artefact = kit.fill(kit.make(store))
    (artefact.path / "tokens" / "c" / "1").unlink()
    with pytest.raises(DamagedError):
        artefact.read("tokens")
