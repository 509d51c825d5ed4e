"""Every kind of file, removed, cut short and altered: an error that names it, or rows that are not done; never rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from store import Artefact, DamagedError, IncompleteError, Store, StoreError
from tests.store import kit


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


DAMAGES = [remove, cut, halve, lengthen, flip]
Damage = Callable[[Path], None]


@pytest.fixture
def artefact(store: Store) -> Artefact:
    return kit.fill(kit.make(store))


def chunk(artefact: Artefact, array: str, i: int) -> Path:
    return artefact.path / array / "c" / str(i) / ("0" if array == "sketch" else "")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("array", sorted(kit.ARRAYS))
@pytest.mark.parametrize("i", [1, 2])
def test_a_damaged_chunk_is_named_and_mended(artefact: Artefact, damage: Damage, array: str, i: int) -> None:
    before = kit.tree(artefact.path.parents[3])
    damage(chunk(artefact, array, i))
    rows = {1: "rows 4-7", 2: "rows 8-9"}[i]
    for look in (
        lambda: artefact.read(array),
        lambda: artefact.take(array, [9, 5]),
        lambda: list(artefact.blocks([array])),
        lambda: artefact.verify_part(i),
    ):
        with pytest.raises(
            DamagedError, match=rf"features/pool/ntk is damaged: part {i} \({rows}\): in array {array}"
        ) as e:
            look()
        assert (e.value.artefact, e.value.part, e.value.rows) == (kit.NAME, i, artefact.part_bounds(i))
    record = artefact.path / "part" / "c" / str(i)
    store = artefact.path.parents[3]
    assert f"`check(Store.open({str(store)!r}), repair=True)`, which forgets that part" in str(e.value)
    assert "what makes features/pool/ntk again, which redoes it" in str(e.value)
    assert len(artefact.read(array, 0, 4)) == 4  # the others are as good as ever
    record.unlink()
    kit.fill(artefact)
    assert kit.tree(artefact.path.parents[3]) == before


@pytest.mark.parametrize("damage", [remove, cut, halve, lengthen])
def test_a_record_that_is_not_whole_vouches_for_nothing(artefact: Artefact, damage: Damage) -> None:
    before = kit.tree(artefact.path.parents[3])
    damage(artefact.path / "part" / "c" / "1")
    with pytest.raises(IncompleteError, match="rows 4-7"):
        artefact.read("norm")
    kit.fill(artefact)
    assert kit.tree(artefact.path.parents[3]) == before


def test_an_altered_record_is_found_and_mended(artefact: Artefact) -> None:
    flip(artefact.path / "part" / "c" / "1")
    with pytest.raises(DamagedError, match=r"part 1 \(rows 4-7\): its digest is .*, its record says"):
        artefact.verify_part(1)
    artefact.forget_part(1)
    assert artefact.pending() == [1]
    kit.fill(artefact).verify_part(1)


def test_rows_altered_together_with_their_checksum_are_found(artefact: Artefact, store: Store) -> None:
    other = kit.make(store, "features/pool/other")
    other.write_part(1, {**kit.part(other, 1), "norm": np.ones(4, np.float32)})
    chunk(artefact, "norm", 1).write_bytes(chunk(other, "norm", 1).read_bytes())
    assert artefact.read("norm", 4, 8).tolist() == [1] * 4
    with pytest.raises(DamagedError, match="its digest is"):
        artefact.verify_part(1)


@pytest.mark.parametrize("damage", [remove, cut, halve])
@pytest.mark.parametrize("document", ["zarr.json", "norm/zarr.json", "row_id/zarr.json"])
def test_a_damaged_document_is_named(artefact: Artefact, store: Store, damage: Damage, document: str) -> None:
    path = artefact.path / document
    damage(path)
    with pytest.raises(
        DamagedError, match=rf"features/pool/ntk is damaged: {path} .*; run `repair_header.* repair=True\)`, which"
    ):
        store.get(kit.NAME).read("norm")
    with pytest.raises(StoreError, match="is damaged"):
        kit.make(store)


ALTERED = {
    "spec": ("zarr.json", '"dim": 3', '"dim": 4'),
    "fingerprint": ("zarr.json", '"fingerprint": "', '"fingerprint": "0'),
    "attribute": ("zarr.json", '"parents"', '"parens"'),
    "node": ("zarr.json", '"group"', '"array"'),
    "kind": ("zarr.json", '"features"', '"score"'),
    "no parts": ("zarr.json", '"part_rows": 4', '"part_rows": 0'),
    "plan": ("zarr.json", '"plan": {', '"plan": 1, "more": {'),
    "n": ("zarr.json", '"n": 10', '"n": 11'),
    "part_rows": ("zarr.json", '"part_rows": 4', '"part_rows": 5'),
    "dtype": ("norm/zarr.json", "float32", "float33"),
    "shape": ("norm/zarr.json", "10\n", "12\n"),
    "checksum": ("norm/zarr.json", "crc32c", "crc32d"),
    "byte order": ("norm/zarr.json", "little", "big"),
    "codec": ("row_id/zarr.json", "vlen-utf8", "vlen-utf9"),
}


@pytest.mark.parametrize(("document", "old", "new"), ALTERED.values(), ids=ALTERED.keys())
def test_an_altered_document_is_named(artefact: Artefact, store: Store, document: str, old: str, new: str) -> None:
    path = artefact.path / document
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DamagedError, match="features/pool/ntk is damaged"):
        store.get(kit.NAME).read("norm")


def test_a_listing_can_go_on_past_damage(artefact: Artefact, store: Store) -> None:
    kit.make(store, "features/pool/whole")
    remove(artefact.path / "zarr.json")
    with pytest.raises(DamagedError):
        store.artefacts()
    found: list[DamagedError] = []
    assert [whole.name for whole in store.artefacts(on_damage=found.append)] == ["features/pool/whole"]
    assert [error.artefact for error in found] == [kit.NAME]
    store.remove(kit.NAME)
    assert kit.fill(kit.make(store)).complete


def test_group_documents_between_are_made_again(artefact: Artefact, store: Store) -> None:
    before = kit.tree(store.path)
    for folder in (artefact.path.parent, artefact.path.parents[1], store.path / "arrays.zarr"):
        remove(folder / "zarr.json")
    Store.open_or_create(store.path, made_by="x").remove(kit.NAME)
    kit.run(store.path)
    assert kit.tree(store.path) == before
