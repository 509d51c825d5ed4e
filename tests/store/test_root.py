"""The store as a folder: opening, refusing, names, listing, removing, leftovers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from store import (
    ArraySpec,
    DamagedError,
    MissingArtefactError,
    NameInvalidError,
    NewerFormatError,
    NoStoreError,
    RowStatus,
    Store,
    StoreError,
    check_name,
)
from tests.store import kit


def test_a_store_says_what_it_is(store: Store) -> None:
    header = json.loads((store.path / "store.json").read_bytes())
    digest = header.pop("digest")
    assert header == {"format": "ntksel-store", "version": 1, "id": store.id, "made_by": "ntksel test"}
    canonical = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    assert digest == hashlib.sha256(canonical).hexdigest()[:32]
    assert Store.open_or_create(store.path, made_by="later").made_by == "ntksel test"
    assert Store.open(str(store.path)).id == store.id


def test_an_empty_folder_becomes_a_store(tmp_path: Path) -> None:
    assert Store.open_or_create(tmp_path, made_by="x").artefacts() == []


@pytest.mark.parametrize("entry", ["notes.txt", "arrays.zarr/zarr.json", "tmp/mine"])
def test_a_folder_with_other_things_is_refused_and_untouched(tmp_path: Path, entry: str) -> None:
    (tmp_path / entry).parent.mkdir(exist_ok=True)
    (tmp_path / entry).write_text("mine")
    with pytest.raises(NoStoreError, match=r"holds other things: .*; give the path of a store or of a new folder"):
        Store.open_or_create(tmp_path, made_by="x")
    with pytest.raises(NoStoreError, match=r"holds no ntksel store: .*; make one with `Store.open_or_create\("):
        Store.open(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / entry]


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoStoreError, match="there is no such folder"):
        Store.open(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(NoStoreError, match="is a file"):
        Store.open_or_create(tmp_path / "file", made_by="x")
    with pytest.raises(NoStoreError):
        Store.open(tmp_path / "file")
    assert not (tmp_path / "none").exists()


def rewrite(store: Store, **changes: object) -> None:
    """The header as a program writes it that has other things to say."""
    said = {**json.loads((store.path / "store.json").read_bytes()), **changes}
    said.pop("digest")
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    said["digest"] = hashlib.sha256(canonical).hexdigest()[:32]
    (store.path / "store.json").write_text(json.dumps(said))


def test_a_newer_version_is_refused(store: Store) -> None:
    rewrite(store, version=2, more="what a later version adds")
    for opened in (Store.open, lambda path: Store.open_or_create(path, made_by="x")):
        with pytest.raises(NewerFormatError, match=r"format version 2, .* reads up to 1; update it"):
            opened(store.path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "ntksel-store"}', '{"format": "\\ud8'])
def test_a_damaged_header_is_named(store: Store, text: str) -> None:
    (store.path / "store.json").write_text(text)
    with pytest.raises(DamagedError, match=r"store.json is damaged .*`check\(Store.open\('.*'\), repair=True\)`"):
        Store.open(store.path)


def test_a_header_of_another_format_is_no_store(store: Store) -> None:
    rewrite(store, format="other")
    with pytest.raises(NoStoreError, match="of the format 'other'"):
        Store.open(store.path)


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-1", "x" * 100])
def test_names_that_are_allowed(name: str) -> None:
    assert check_name(name) == name


BAD_NAMES = ["", ".", "..", ".hidden", "-a", "_a", "a/b", "a\\b", "a b", "a\n", "é", "x" * 101, "a\0", "~"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder_or_need_quotes_are_refused(store: Store, name: str) -> None:
    with pytest.raises(NameInvalidError, match="1 to 100 letters, digits"):
        check_name(name)
    for path in (f"features/{name}/ntk", f"scores/{name}"):
        with pytest.raises(NameInvalidError):
            store.find(path)
    for place in (lambda: store.adapter_path(name), lambda: store.folder("reports", name)):
        with pytest.raises(NameInvalidError):
            place()


def test_paths_kinds_and_arrays_that_do_not_fit_are_refused(store: Store) -> None:
    with pytest.raises(NameInvalidError, match="use one of datasets/NAME, features/NAME/NAME"):
        store.get("features/pool")
    with pytest.raises(NameInvalidError, match="is the path of kind features, not of score"):
        kit.make(store, kind="score")
    with pytest.raises(NameInvalidError, match="'part'; that one holds the records"):
        kit.make(store, arrays={"part": ArraySpec()})
    with pytest.raises(StoreError, match=r"\['n'\] can't be free attributes"):
        kit.make(store, attrs={"n": 1})
    with pytest.raises(StoreError, match="part_rows >= 1"):
        kit.make(store, part_rows=0)
    assert store.artefacts() == []


def test_a_missing_artefact_lists_what_there_is(store: Store) -> None:
    with pytest.raises(
        MissingArtefactError,
        match=r"make it first \(what makes features/pool/ntk\): there is no features yet",
    ):
        store.get(kit.NAME)
    kit.make(store)
    with pytest.raises(MissingArtefactError, match="or give one of features/pool/ntk"):
        store.get("features/pool/embed")
    assert store.find("features/pool/embed") is None


def test_artefacts_are_listed_by_kind(store: Store) -> None:
    made = ["features/pool/embed", kit.NAME]
    for name in reversed(made):
        kit.make(store, name)
    score = store.create(
        "scores/s", kind="score", spec={}, parents={}, n=1, part_rows=9, arrays={"score": ArraySpec()}, attrs={"k": 5}
    )
    assert [artefact.name for artefact in store.artefacts()] == [*made, "scores/s"]
    assert [artefact.name for artefact in store.artefacts("score")] == ["scores/s"]
    assert (score.part_rows, score.attrs["k"], score.kind) == (1, 5, "score")


def test_remove_leaves_nothing(store: Store) -> None:
    kit.fill(kit.make(store))
    store.remove(kit.NAME)
    assert store.find(kit.NAME) is None
    assert not any((store.path / "tmp").iterdir())
    with pytest.raises(MissingArtefactError):
        store.remove(kit.NAME)


def test_notes_are_kept_and_never_touch_what_is_fixed(store: Store) -> None:
    artefact = kit.make(store)
    artefact.note(seen_at="/data/pool.jsonl")
    artefact.note(rows_bad=3)
    attrs = store.get(kit.NAME).attrs
    assert (attrs["seen_at"], attrs["rows_bad"], attrs["spec"]) == ("/data/pool.jsonl", 3, kit.SPEC)
    with pytest.raises(StoreError, match=r"\['spec'\] of features/pool/ntk are fixed"):
        artefact.note(spec={})


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(store: Store) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine = store.tmp_path()
    host, _, random = mine.name.split("-")
    of_the_dead = mine.with_name(f"{host}-{dead.pid}-{random}")
    elsewhere_now, elsewhere_old = (mine.with_name(f"{'0' * 12}-1-{digit * 16}") for digit in "ab")
    somebodys = mine.with_name("notes.txt")
    for path in (mine, elsewhere_now, elsewhere_old, somebodys):
        path.write_text("")
    (of_the_dead / "folder").mkdir(parents=True)
    old = time.time() - 3700
    for path in (mine, elsewhere_old, somebodys):
        os.utime(path, (old, old))
    assert kit.make(store)._scratch.clean() == 0  # create has cleaned already
    assert set((store.path / "tmp").iterdir()) == {mine, elsewhere_now, somebodys}


def test_a_clock_that_is_ahead_of_the_disks_removes_nothing_of_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a shared disk the server marks the files, and this host's clock may be hours ahead of it."""
    of_another_host = store.tmp_path().with_name(f"{'0' * 12}-1-{'a' * 16}")
    of_another_host.write_text("")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 7200)
    assert kit.make(store)._scratch.clean() == 0
    assert list((store.path / "tmp").iterdir()) == [of_another_host]


def test_row_status_values_are_those_of_the_format() -> None:
    assert [status.name for status in RowStatus if status.has_values] == ["OK", "TRUNCATED"]
    assert [int(status) for status in RowStatus] == list(range(6))
