"""The check: every kind of file removed, cut, altered or swapped is found, named and mended; nothing else is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from store import Artefact, Checked, DamagedError, Store, check, repair_header
from tests.store import kit
from tests.store.test_damage import DAMAGES, Damage, chunk, cut, flip, halve, remove

CHUNKS = sorted(kit.ARRAYS)
OTHER = "features/pool/other"


@pytest.fixture
def artefact(store: Store) -> Artefact:
    kit.fill(kit.make(store, OTHER, spec={"other": 1}))
    return kit.fill(kit.make(store))


def swap(one: Path, other: Path) -> None:
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b), other.write_bytes(a)


def where(checked: Checked) -> list[tuple[str, int | None, tuple[int, int] | None]]:
    return [(found.artefact, found.part, found.rows) for found in checked.findings]


def mend(store: Store, expected: dict[str, bytes], found: Checked) -> None:
    """Repair forgets what was found, the next run writes just that again, and the bytes are those from before."""
    repaired = check(store, repair=True)
    assert where(repaired) == where(found)
    assert all(finding.repaired for finding in repaired.findings)
    parts = sorted({(f.artefact, f.part) for f in found.findings if f.part is not None})
    pending = sorted((name, i) for name in (kit.NAME, OTHER) for i in store.get(name).pending())
    assert pending == parts
    for name in (kit.NAME, OTHER):
        kit.fill(store.get(name))
    assert kit.tree(store.path) == expected
    assert check(store) == Checked((), 6, 2 * kit.N)


def test_a_sound_store_has_no_findings(artefact: Artefact, store: Store) -> None:
    seen: list[int] = []
    assert check(store, repair=True, on_part=seen.append) == Checked((), 6, 2 * kit.N)
    assert seen == [4, 4, 2, 4, 4, 2]
    artefact.forget_part(1)
    assert check(store) == Checked((), 5, 2 * kit.N - 4)  # unfinished is not damaged


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("array", CHUNKS)
def test_chunks(artefact: Artefact, store: Store, damage: Damage, array: str) -> None:
    expected = kit.tree(store.path)
    damage(chunk(artefact, array, 2))
    found = check(store)
    assert where(found) == [(kit.NAME, 2, (8, 10))]
    assert (found.parts, found.rows) == (5, 2 * kit.N - 2)
    assert f"array {array}" in found.findings[0].what
    assert f"`check(Store.open({str(store.path)!r}), repair=True)`" in str(found.findings[0].mend)
    mend(store, expected, found)


@pytest.mark.parametrize("array", CHUNKS)
def test_chunks_that_changed_places(artefact: Artefact, store: Store, array: str) -> None:
    """Each is whole and its checksum right: only the digests tell."""
    expected = kit.tree(store.path)
    swap(chunk(artefact, array, 0), chunk(artefact, array, 1))
    found = check(store)
    assert where(found) == [(kit.NAME, 0, (0, 4)), (kit.NAME, 1, (4, 8))]
    mend(store, expected, found)


def test_records_that_changed_places(artefact: Artefact, store: Store) -> None:
    expected = kit.tree(store.path)
    records = artefact.path / "part" / "c"
    swap(records / "0", records / "2")
    found = check(store)
    assert where(found) == [(kit.NAME, 0, (0, 4)), (kit.NAME, 2, (8, 10))]
    mend(store, expected, found)


@pytest.mark.parametrize("damage", [cut, flip])
def test_records(artefact: Artefact, store: Store, damage: Damage) -> None:
    expected = kit.tree(store.path)
    damage(artefact.path / "part" / "c" / "1")
    found = check(store)
    assert where(found) == [(kit.NAME, 1, (4, 8))]
    mend(store, expected, found)


@pytest.mark.parametrize("name", ["3", "x"])
def test_records_of_no_part(artefact: Artefact, store: Store, name: str) -> None:
    expected = kit.tree(store.path)
    (artefact.path / "part" / "c" / name).write_bytes(b"1234")
    found = check(store)
    assert where(found) == [(kit.NAME, None, None)]
    assert "is of no part: there are 3" in found.findings[0].what
    mend(store, expected, found)


@pytest.mark.parametrize("damage", [remove, cut, flip])
@pytest.mark.parametrize("group", ["", "features", "features/pool"])
def test_groups_between(artefact: Artefact, store: Store, damage: Damage, group: str) -> None:
    expected = kit.tree(store.path)
    path = store.path / "arrays.zarr" / group / "zarr.json"
    damage(path)
    found = check(store)
    assert where(found) == [("", None, None)]
    assert str(path) in found.findings[0].what
    mend(store, expected, found)


DOCUMENTS = ["zarr.json", "part/copy.json", "part/zarr.json", "norm/zarr.json", "row_id/zarr.json"]


@pytest.mark.parametrize("damage", [remove, cut, flip])
@pytest.mark.parametrize("document", DOCUMENTS)
def test_descriptions_are_written_again(artefact: Artefact, store: Store, damage: Damage, document: str) -> None:
    """No part is lost by it."""
    expected = kit.tree(store.path)
    damage(artefact.path / document)
    found = check(store)
    assert where(found) == [(kit.NAME, None, None)]
    assert str(artefact.path / document) in found.findings[0].what
    assert f"`check(Store.open({str(store.path)!r}), repair=True)`, which writes it again" in str(
        found.findings[0].mend
    )
    mend(store, expected, found)


@pytest.mark.parametrize("other", ["norm/zarr.json", f"../../../{OTHER}/zarr.json"])
def test_descriptions_that_changed_places(artefact: Artefact, store: Store, other: str) -> None:
    """Two arrays of one size, two artefacts of one kind: each document is a good one."""
    expected, two = kit.tree(store.path), "tokens/zarr.json" if other.startswith("norm") else "zarr.json"
    swap(artefact.path / two, artefact.path / other)
    found = check(store)
    assert len(found.findings) == 2
    with pytest.raises(DamagedError, match="is damaged"):
        store.get(kit.NAME).read("norm")
    mend(store, expected, found)


def test_a_lost_array_is_no_other_artefact(artefact: Artefact, store: Store) -> None:
    """Its folder is gone, description and all: found, described again, and its parts are to be done again."""
    expected = kit.tree(store.path)
    shutil.rmtree(artefact.path / "norm")
    with pytest.raises(DamagedError, match=r"norm/zarr.json is missing; run `repair_header.*, repair=True\)`"):
        store.get(kit.NAME).read("tokens")
    check(store, repair=True)
    check(store, repair=True)
    kit.fill(store.get(kit.NAME))
    assert kit.tree(store.path) == expected


@pytest.mark.parametrize("damage", [remove, cut, flip])
def test_a_description_lost_with_its_copy_says_what_to_do(artefact: Artefact, store: Store, damage: Damage) -> None:
    before = kit.tree(store.path)
    for document in ("zarr.json", "part/copy.json"):
        damage(artefact.path / document)
    (found,) = check(store, repair=True).findings
    assert (found.artefact, found.part, found.repaired) == (kit.NAME, None, False)
    assert f"or give the artefact up: `Store.open({str(store.path)!r}).remove({kit.NAME!r})` and then" in str(
        found.mend
    )
    store.remove(kit.NAME)
    kit.fill(kit.make(store))
    assert kit.tree(store.path) == before


@pytest.mark.parametrize("damage", [remove, halve, flip])
def test_the_header_is_written_again(artefact: Artefact, store: Store, damage: Damage) -> None:
    path = store.path / "store.json"
    before = path.read_bytes()
    damage(path)
    for look in (lambda: Store.open(store.path), lambda: Store.open_or_create(store.path, made_by="x")):
        with pytest.raises(
            DamagedError, match=r"store.json is .*; run `repair_header.*, repair=True\)`, which writes it again"
        ):
            look()
    assert "store.json is" in str(repair_header(store.path))
    assert path.read_bytes() == before
    assert repair_header(store.path) is None


def test_a_header_lost_with_its_copy_says_what_to_do(artefact: Artefact, store: Store) -> None:
    halve(store.path / "store.json")
    (store.path / "copy/store.json").unlink()
    with pytest.raises(DamagedError, match=r"store.json is damaged .*; restore it from a copy"):
        repair_header(store.path)


@pytest.mark.parametrize("damage", [remove, halve, flip])
def test_the_copy_of_the_header_is_written_again(artefact: Artefact, store: Store, damage: Damage) -> None:
    damage(store.path / "copy/store.json")
    (found,) = check(store).findings
    assert found.what.startswith(str(store.path / "copy/store.json"))
    check(store, repair=True)
    assert (store.path / "copy/store.json").read_bytes() == (store.path / "store.json").read_bytes()
    assert check(store).findings == ()
