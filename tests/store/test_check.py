"""The check: every kind of file removed, cut, altered or swapped is found, named and mended; nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from store import Artefact, Checked, Store, check
from tests.store import kit
from tests.store.test_damage import DAMAGES, Damage, chunk, cut, flip, remove

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
    assert f"`ntksel info {store.path} --repair`" in found.findings[0].mend
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


@pytest.mark.parametrize("damage", [remove, cut])
@pytest.mark.parametrize("group", ["", "features", "features/pool"])
def test_groups_between(artefact: Artefact, store: Store, damage: Damage, group: str) -> None:
    expected = kit.tree(store.path)
    path = store.path / "arrays.zarr" / group / "zarr.json"
    damage(path)
    found = check(store)
    assert where(found) == [("", None, None)]
    assert str(path) in found.findings[0].what
    mend(store, expected, found)


@pytest.mark.parametrize("damage", [remove, cut])
@pytest.mark.parametrize("document", ["zarr.json", "norm/zarr.json"])
def test_descriptions_can_not_be_repaired_and_say_what_to_do(
    artefact: Artefact, store: Store, damage: Damage, document: str
) -> None:
    before = kit.tree(store.path)
    damage(artefact.path / document)
    (found,) = check(store, repair=True).findings
    assert (found.artefact, found.part, found.repaired) == (kit.NAME, None, False)
    assert f"restore it from a copy, or give the artefact up: `ntksel rm {store.path} {kit.NAME}`" in found.mend
    store.remove(kit.NAME)
    kit.fill(kit.make(store))
    assert kit.tree(store.path) == before
