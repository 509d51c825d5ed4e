"""Push and pull against folders and memory: what is copied, resume after a kill at any file, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

import store
from ntkcli.errors import BusyError, IncompleteError, NtkselError, SpecError, UsageError
from ntkcli.steps.remote.manifest import BEFORE, BEGUN, MANIFEST
from ntkcli.steps.remote.place import Place
from ntkcli.steps.remote.pull import pull
from ntkcli.steps.remote.push import push
from ntkcli.steps.training.run import alone
from ntkcli.steps.upkeep.info import info
from ntkcli.steps.upkeep.verify import verify
from tests.steps.remote.kit import Breaks, make_store, tree


def test_a_store_comes_back_as_it_was(med: Path, url: str, tmp_path: Path) -> None:
    found = push(med, url)
    assert (found.sent, found.sent_bytes) == (found.files, found.size_bytes)
    assert found.unfinished == {"runs/broken": "left out: the training is not finished"}
    there = {path: Place.of(url).read(path) for path in Place.of(url).list() if path != MANIFEST}
    assert there == tree(med)
    back = tmp_path / "back"
    pulled = pull(url, back)
    assert tree(back) == tree(med)
    assert set(pulled.artefacts) == set(found.artefacts)
    assert verify(back).sound
    assert store.Store.open(back).id == store.Store.open(med).id
    again, once_more = push(med, url), pull(url, back)
    assert (again.sent, once_more.received) == (0, 0)


@pytest.mark.parametrize("after", [1, 2, 9, 25, 40])
def test_a_push_that_breaks_off_goes_on(med: Path, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}/med"
    with monkeypatch.context() as broken:
        first = Breaks(broken, after)
        with pytest.raises(KeyboardInterrupt):
            push(med, url)
    for read in (lambda: pull(url, tmp_path / "back"), lambda: info(url)):
        with pytest.raises(IncompleteError, match=f"half pushed.*ntksel push STORE {url}"):
            read()
    assert not (tmp_path / "back").exists()
    there = set(Place.of(url).list()) - {BEGUN}
    assert not any(path.endswith(("part/c/0", "ntksel.json")) for path in there) or after > 25  # these come last
    with monkeypatch.context() as counted:
        second = Breaks(counted)
        found = push(med, url)
    assert set(second.written) == (set(tree(med)) - there) | {BEGUN, MANIFEST}
    assert found.sent == len(tree(med)) - len(there)
    assert len(first.written) + len(second.written) == len(tree(med)) + 3  # nothing twice but the first mark
    pull(url, tmp_path / "back")
    assert tree(tmp_path / "back") == tree(med)


def test_a_killed_process_leaves_what_goes_on(med: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    program = (
        "import os, sys\n"
        "from ntkcli.steps.remote.place import Place\n"
        "write, done = Place.write, []\n"
        "def late(self, path, data):\n"
        "    done.append(path)\n"
        "    if len(done) > 20: os.kill(os.getpid(), 9)\n"
        "    write(self, path, data)\n"
        "Place.write = late\n"
        "from ntkcli.steps.remote.push import push\n"
        f"push({str(med)!r}, {url!r})\n"
    )
    died = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    found = push(med, url)
    assert 0 < found.sent < found.files
    pull(url, tmp_path / "back")
    assert tree(tmp_path / "back") == tree(med)


def test_a_pull_that_breaks_off_goes_on(med: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(med, url)
    back, read, calls = tmp_path / "back", Place.read, []

    def breaks(place: Place, path: str) -> bytes | None:
        calls.append(path)
        if len(calls) > 30:
            raise KeyboardInterrupt
        return read(place, path)

    with monkeypatch.context() as broken:
        broken.setattr(Place, "read", breaks)
        with pytest.raises(KeyboardInterrupt):
            pull(url, back)
    half = verify(back)
    assert half.sound
    found = pull(url, back)
    assert 0 < found.received < found.files
    assert tree(back) == tree(med)


def test_only_finished_parts_are_pushed_and_more_follow(tmp_path: Path) -> None:
    url, back = f"memory://{uuid.uuid4().hex}/med", tmp_path / "back"
    med = make_store(tmp_path / "med", features_done=1)
    # a part whose chunks are there and whose record is not: a kill in between
    lost = med.path / "arrays.zarr/features/pool/embed/embedding/c/1/0"
    shutil.copy(lost.parent.parent / "0" / "0", (lost.parent.mkdir(), lost)[1])
    assert push(med.path, url).unfinished["features/pool/embed"] == "8 of 20 rows"
    assert "arrays.zarr/features/pool/embed/embedding/c/1/0" not in Place.of(url).list()
    assert pull(url, back).unfinished == {"features/pool/embed": "8 of 20 rows"}
    assert store.Store.open(back).get("features/pool/embed").pending() == [1, 2]
    for place, part in ((med, 1), (store.Store.open(back), 2)):  # each machine does one of them
        artefact = place.get("features/pool/embed")
        start, stop = artefact.part_bounds(part)
        rows = np.full((stop - start, 4), part, np.float32)
        artefact.write_part(part, {"embedding": rows, "norm": rows[:, 0].copy()})
    assert push(med.path, url).sent == 3
    assert push(back, url).sent == 3
    assert info(url).artefacts[1].rows_done == 20
    for each in (med.path, back):
        assert pull(url, each).unfinished == {}
    assert tree(back) == tree(med.path)


def test_what_differs_is_replaced_and_half_is_seen(med: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    push(med, url)
    place = Place.of(url)
    chunk = "arrays.zarr/scores/near/score/c/0"
    data = bytearray(place.read(chunk) or b"")
    data[0] ^= 1  # the same size: only a digest tells
    place.write(chunk, bytes(data))
    with pytest.raises(NtkselError, match=f"{chunk} differs from its digest"):
        pull(url, med.parent / "back")
    with monkeypatch.context() as broken:
        Breaks(broken, after=2)  # the mark, and the manifest under its other name
        with pytest.raises(KeyboardInterrupt):
            push(med, url)
    assert MANIFEST not in place.list()
    assert BEFORE in place.list()
    assert push(med, url).sent == 1
    assert not {BEGUN, BEFORE} & place.list().keys()
    assert place.read(chunk) == (med / chunk).read_bytes()


def test_a_push_that_only_adds_leaves_the_last_one_readable(
    med: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{uuid.uuid4().hex}/med"
    push(med, url)
    before = tree(med)
    more = store.Store.open(med).create(
        "scores/more", kind="score", spec={"a": 1}, parents={}, n=3, part_rows=3,
        arrays={"score": store.ArraySpec("float32")},
    )  # fmt: skip
    more.write_part(0, {"score": np.ones(3, np.float32)})
    with monkeypatch.context() as broken:
        Breaks(broken, after=3)
        with pytest.raises(KeyboardInterrupt):
            push(med, url)
    found = pull(url, tmp_path / "back")
    assert found.being_pushed
    assert tree(tmp_path / "back") == before


def test_what_only_the_url_has_stays(med: Path, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    push(med, url)
    store.Store.open(med).remove("scores/near")
    assert push(med, url).kept == ("scores/near",)
    assert "scores/near" in [each.name for each in info(url).artefacts]
    assert "scores/near" in pull(url, tmp_path / "back").artefacts


def test_other_settings_are_refused_or_replaced(med: Path, url: str, tmp_path: Path) -> None:
    push(med, url)
    other = shutil.copytree(med, tmp_path / "other")
    opened = store.Store.open(other)
    opened.remove("features/pool/embed")
    array = store.ArraySpec("float32")
    new = opened.create(
        "features/pool/embed", kind="features", spec={"kind": "ntk"}, parents={}, n=4, part_rows=2,
        arrays={"norm": array},
    )  # fmt: skip
    new.write_part(0, {"norm": np.ones(2, np.float32)})
    with pytest.raises(SpecError, match="features/pool/embed made with other settings"):
        push(other, url)
    with pytest.raises(SpecError, match="features/pool/embed made with other settings"):
        pull(url, other)
    push(other, url, force=True)
    left = [path for path in Place.of(url).list() if "features/pool/embed/embedding" in path]
    assert not left
    with pytest.raises(SpecError):
        pull(url, med)
    pull(url, med, force=True)
    assert tree(med) == tree(other)


def test_dry_runs_change_nothing(med: Path, url: str, tmp_path: Path) -> None:
    found = push(med, url, dry_run=True)
    assert found.sent == found.files
    assert Place.of(url).list() == {}
    push(med, url)
    assert pull(url, tmp_path / "back", dry_run=True).received == found.files
    assert not (tmp_path / "back").exists()
    assert push(med, url, dry_run=True).sent == 0


def test_other_things_at_the_url_are_refused(med: Path, url: str, tmp_path: Path) -> None:
    Place.of(url).write("holiday.jpg", b"picture")
    for call in (lambda: push(med, url), lambda: pull(url, tmp_path / "back"), lambda: info(url)):
        with pytest.raises(UsageError, match=r"other things: holiday\.jpg"):
            call()
    assert set(Place.of(url).list()) == {"holiday.jpg"}


def test_another_store_is_refused(med: Path, url: str, tmp_path: Path) -> None:
    push(med, url)
    other = make_store(tmp_path / "other")
    with pytest.raises(SpecError, match="another store"):
        push(other.path, url)
    with pytest.raises(SpecError, match="another store"):
        pull(url, other.path)


def test_a_place_without_a_store_is_named(url: str, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="there is no store"):
        pull(url, tmp_path / "back")
    with pytest.raises(IncompleteError, match="there is no store"):
        info(url)


def test_a_store_copied_by_other_means_is_not_taken_for_whole(med: Path, url: str, tmp_path: Path) -> None:
    for path, data in tree(med).items():
        Place.of(url).write(path, data)
    with pytest.raises(IncompleteError, match=r"without the push\.json"):
        pull(url, tmp_path / "back")
    assert push(med, url).sent == 0  # compared by reading


def test_a_cut_manifest_is_half_a_push(med: Path, url: str, tmp_path: Path) -> None:
    push(med, url)
    place = Place.of(url)
    place.write(MANIFEST, (place.read(MANIFEST) or b"")[:-40])
    with pytest.raises(IncompleteError, match=r"without the push\.json"):
        pull(url, tmp_path / "back")


def test_a_manifest_that_leaves_the_folder_is_refused(med: Path, url: str, tmp_path: Path) -> None:
    push(med, url)
    place = Place.of(url)
    said = json.loads(place.read(MANIFEST) or b"")
    said["units"]["data"]["files"]["../evil"] = {"bytes": 1, "sha256": "0"}
    said.pop("digest")
    from ntkcli.steps.remote import manifest

    said["digest"] = manifest._digest(said)
    place.write(MANIFEST, json.dumps(said).encode())
    with pytest.raises(UsageError, match="outside of the store"):
        pull(url, tmp_path / "back")


@pytest.mark.parametrize("after", ["part/c/0", "score/c/0"])
def test_a_store_that_is_written_to_meanwhile(med: Path, url: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is written again, with other bytes, after its chunk was sent, or its record."""
    write, sent = Place.write, f"arrays.zarr/scores/near/{after}"

    def rewrites(place: Place, path: str, data: bytes) -> None:
        write(place, path, data)
        if path == sent:
            score = store.Store.open(med).get("scores/near")
            score.write_part(0, {name: np.zeros(8, np.float32) for name in ("score", "similarity")})

    with monkeypatch.context() as other:
        other.setattr(Place, "write", rewrites)
        with pytest.raises(BusyError, match="another command writes to the store"):
            push(med, url)
    assert push(med, url).sent > 0

    def removes(place: Place, path: str, data: bytes) -> None:
        write(place, path, data)
        shutil.rmtree(med / "arrays.zarr/selections", ignore_errors=True)

    with monkeypatch.context() as other:
        other.setattr(Place, "write", removes)
        with pytest.raises(BusyError, match="was removed while"):
            push(med, f"{url}2")


def test_a_run_that_is_being_trained_is_not_pulled_over(med: Path, url: str, tmp_path: Path) -> None:
    push(med, url)
    pull(url, tmp_path / "back")
    with alone(tmp_path / "back/adapters/warm"), pytest.raises(BusyError, match="is training warm"):
        pull(url, tmp_path / "back")


def test_two_pushes_at_once(med: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Place.write

    def other_begins(place: Place, path: str, data: bytes) -> None:
        write(place, path, data)
        if path.endswith("store.json"):
            write(place, BEGUN, b'{"store": "x"}')

    monkeypatch.setattr(Place, "write", other_begins)
    with pytest.raises(BusyError, match="Another push"):
        push(med, url)
    assert MANIFEST not in Place.of(url).list()


def test_a_damaged_chunk_is_not_pushed(med: Path, url: str) -> None:
    chunk = med / "arrays.zarr/scores/near/score/c/0"
    data = bytearray(chunk.read_bytes())
    data[3] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(store.DamagedError, match="its checksum does not match"):
        push(med, url)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("s3://key:secret@bucket/med", "a name and a password before the @"),
        ("s3://key@bucket/med", "a name and a password before the @"),
        ("s3://bucket/med?X-Amz-Signature=abc", "where tokens are kept"),
        ("simplecache::s3://bucket/med", "is not a URL|chain"),
        ("elsewhere", "is not a URL"),
        ("s3://", "is not a URL|names no folder"),
        ("nothing://bucket/med", "nothing://bucket/med"),
        ("memory://", "is not a URL|names no folder"),
    ],
)
def test_urls_that_cant_be_used(med: Path, tmp_path: Path, given: str, message: str) -> None:
    for call in (lambda: push(med, given), lambda: pull(given, tmp_path / "back")):
        with pytest.raises(UsageError, match=message) as error:
            call()
        assert "secret" not in str(error.value)
        assert "abc" not in str(error.value)


def test_large_files_are_streamed(med: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntkcli.steps.remote.push.LARGE_BYTES", 10)
    push(med, url)
    pull(url, tmp_path / "back")
    assert tree(tmp_path / "back") == tree(med)
