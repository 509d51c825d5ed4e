"""An artefact that grows keeps its rows, byte for byte, and stands whole until the longer one takes its place."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import Artefact, SpecDiffersError, Store, StoreError, atomic, check
from tests.faults import failing_at
from tests.store import kit

LONG = 15
NAMES = ("sketch", "row_id", "norm")
ARRAYS = {name: kit.ARRAYS[name] for name in NAMES}
GROWN = {"spec": {**kit.SPEC, "rows": LONG}, "parents": {"datasets/pool": "1" * 32}, "n": LONG, "part_rows": 4}


def rows() -> dict[str, Any]:
    first = kit.rows()
    more = np.random.default_rng(8)
    return {
        "sketch": np.concatenate([first["sketch"], more.standard_normal((LONG - kit.N, 3)).astype(np.float16)]),
        "norm": np.concatenate([first["norm"], more.random(LONG - kit.N, dtype=np.float32)]),
        "row_id": np.concatenate([first["row_id"], np.array([f"new {i}" for i in range(LONG - kit.N)], dtype=object)]),
    }


def short(path: Path, **changes: Any) -> Artefact:
    return kit.run(path, arrays=ARRAYS, **changes)


def fill(artefact: Artefact) -> None:
    """What a command does: take the head of a part, and compute the rest."""
    for i in artefact.pending():
        start, stop = artefact.part_bounds(i)
        head = artefact.head(i)
        known = len(head["norm"]) if head else 0
        new = {name: values[start + known : stop] for name, values in rows().items()}
        artefact.write_part(i, {name: np.concatenate([head[name], new[name]]) if head else new[name] for name in NAMES})


def grow(path: Path, **changes: Any) -> Artefact:
    return Store.open(path).grow(kit.NAME, **{**GROWN, **changes})


def check_values(artefact: Artefact) -> None:
    for name, values in rows().items():
        np.testing.assert_array_equal(artefact.read(name), values[: artefact.n])


def test_whole_parts_keep_their_files_and_the_last_one_its_rows(tmp_path: Path) -> None:
    old = short(tmp_path)
    before = kit.tree(tmp_path)
    grown = grow(tmp_path)
    assert (grown.n, grown.pending(), grown.part_rows) == (LONG, [2, 3], 4)
    chunks = {
        file: data for file, data in before.items() if "/c/" in file and file.split("/c/")[1].split("/")[0] in "01"
    }
    assert len(chunks) == 2 * (len(NAMES) + 1)
    assert chunks.items() <= kit.tree(tmp_path).items()
    head = grown.head(2)
    assert head is not None
    for name in NAMES:
        np.testing.assert_array_equal(head[name], rows()[name][8:10])
    assert grown.head(3) is None
    fill(grown)
    check_values(grown)
    assert grown.rows_before(old.fingerprint) == kit.N
    assert check(Store.open(tmp_path)).findings == ()


def test_the_same_bytes_as_one_that_was_as_long_from_the_start(tmp_path: Path) -> None:
    short(tmp_path / "grown")
    fill(grow(tmp_path / "grown"))
    made = {**GROWN, "arrays": ARRAYS}
    whole = kit.make(Store.open_or_create(tmp_path / "whole", made_by="ntksel test"), **made)
    fill(whole)
    grown, expected = kit.tree(tmp_path / "grown"), kit.tree(tmp_path / "whole")
    assert grown.keys() == expected.keys()
    assert {file for file in grown if grown[file] != expected[file]} == {
        f"{kit.NAME}/zarr.json", f"{kit.NAME}/part/copy.json"  # the attributes that tell of the growth
    }  # fmt: skip


@pytest.mark.parametrize("exchanges", [True, False])
def test_stopped_at_every_operation(exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    path, old = tmp_path / "s", tmp_path / "old"
    short(old)
    shutil.copytree(old, path)
    with failing_at(None) as disk:
        fill(grow(path))
    expected, operations = kit.tree(path), disk.operations
    for stop in range(0, operations, 3):
        shutil.rmtree(path)
        shutil.copytree(old, path)
        with failing_at(stop):
            fill(grow(path))
        found = Store.open(path).get(kit.NAME)
        for i in found.done().nonzero()[0].tolist():
            found.verify_part(i)
        if found.n == kit.N:
            check_values(found)  # the old one, whole
        else:
            for i in (0, 1):
                found.verify_part(i)
            assert found.recorded(2) or found.head(2) is not None, f"rows were lost at operation {stop}"
        fill(grow(path))
        assert kit.tree(path) == expected, f"stopped at operation {stop}"


def test_twice_before_the_new_rows_are_there(tmp_path: Path) -> None:
    """The head of a part that is still pending goes on; that of a part that another writer finished comes with it."""
    short(tmp_path)
    first = grow(tmp_path, n=13, spec={"rows": 13})
    first.write_part(3, {name: values[12:13] for name, values in rows().items()})
    second = grow(tmp_path)
    assert second.pending() == [2, 3]
    assert [len((second.head(i) or {})["norm"]) for i in (2, 3)] == [2, 1]
    fill(second)
    check_values(second)
    assert [second.rows_before(each) for each in (first.fingerprint, "0" * 32)] == [13, None]


@pytest.mark.parametrize("stop_between", [False, True])
def test_a_single_part_gets_parts_of_the_size_asked_for(stop_between: bool, tmp_path: Path) -> None:
    short(tmp_path, n=3, part_rows=100)
    if stop_between:
        grow(tmp_path, n=5, spec={"rows": 5}, part_rows=8)
    grown = grow(tmp_path, part_rows=8)
    assert (grown.part_rows, grown.pending()) == (8, [0, 1])
    head = grown.head(0)
    assert head is not None
    assert len(head["norm"]) == 3
    fill(grown)
    check_values(grown)


def test_a_damaged_head_is_not_taken(tmp_path: Path) -> None:
    short(tmp_path)
    grown = grow(tmp_path)
    file = grown.path / "norm/c/2"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.unlink()
    file.write_bytes(data)
    assert grown.head(2) is None
    fill(grown)
    check_values(grown)


def test_a_damaged_head_of_a_single_part_does_not_stop_the_growth(tmp_path: Path) -> None:
    short(tmp_path, n=3, part_rows=100)
    between = grow(tmp_path, n=5, spec={"rows": 5}, part_rows=8)
    (between.path / "norm/c/0").unlink()
    grown = grow(tmp_path, part_rows=8)
    assert (grown.pending(), grown.head(0)) == ([0, 1], None)
    fill(grown)
    check_values(grown)


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    short(tmp_path)
    grow(tmp_path).write_part(3, {name: values[12:15] for name, values in rows().items()})
    assert grow(tmp_path).pending() == [2]
    with pytest.raises(StoreError, match="can't grow to 14"):
        grow(tmp_path, n=14, spec={"rows": 14})


def test_what_was_made_of_fewer_rows_is_named(tmp_path: Path) -> None:
    stored = Store.open_or_create(tmp_path, made_by="ntksel test")
    data = stored.create("datasets/pool", kind="dataset", spec={"n": 10}, parents={}, n=10, part_rows=4, arrays={})
    parents = {data.name: data.fingerprint}
    short(tmp_path, parents=parents)
    stored.create("scores/s", kind="score", spec={}, parents=parents, n=10, part_rows=4, arrays={})
    stored.grow("datasets/pool", spec={"n": 15}, parents={}, n=15, part_rows=4)
    with pytest.raises(SpecDiffersError, match=r"saw the first 10 rows of datasets/pool, which has 15 now") as score:
        stored.check_parents(stored.get("scores/s"))
    assert "scores/s" in str(score.value.fix)
    with pytest.raises(SpecDiffersError, match="holds the first 10 rows of datasets/pool") as features:
        stored.check_parents(stored.get(kit.NAME))
    assert "computes the new rows only" in str(features.value.fix)
    stored.refuse_shorter(data)


def test_a_folder_left_aside_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On file systems that can't exchange two folders a kill may come between two renames."""
    place = short(tmp_path).path
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    place.rename(atomic.aside_of(place))
    assert Store.open(tmp_path).get(kit.NAME).n == kit.N


def test_files_are_copied_where_no_links_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short(tmp_path)

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(atomic.os, "link", refuse)
    fill(grow(tmp_path))
    check_values(Store.open(tmp_path).get(kit.NAME))
