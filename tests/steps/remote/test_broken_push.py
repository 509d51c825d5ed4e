"""A push that replaced files was killed; a store without all that was there ends it, and the place can be pulled."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import store
from ntkcli.steps.remote.place import Place
from ntkcli.steps.remote.pull import pull
from ntkcli.steps.remote.push import push
from tests.steps.remote.kit import Breaks, make_store, tree


@pytest.mark.parametrize("after", [4, 6])
def test_what_a_broken_push_has_replaced_is_not_listed(
    med: Path, url: str, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other features took the place of those there, and the push was killed; then one of a store that has none ends."""
    push(med, url)
    half = shutil.copytree(med, tmp_path / "half")
    opened = store.Store.open(half)
    opened.remove("features/pool/embed")
    new = opened.create(
        "features/pool/embed", kind="features", spec={"kind": "ntk"}, parents={}, n=20, part_rows=8,
        arrays={"norm": store.ArraySpec("float32"), "embedding": store.ArraySpec("float32", (4,))},
    )  # fmt: skip
    for i, rows in enumerate((8, 8, 4)):
        new.write_part(i, {"norm": np.full(rows, 2, np.float32), "embedding": np.full((rows, 4), 3, np.float32)})
    with monkeypatch.context() as broken:
        Breaks(broken, after)
        with pytest.raises(KeyboardInterrupt):
            push(half, url, force=True)
    without = shutil.copytree(med, tmp_path / "without")
    store.Store.open(without).remove("features/pool/embed")
    assert "features/pool/embed" not in push(without, url).kept
    assert "features/pool/embed" not in pull(url, tmp_path / "back").artefacts
    assert not [path for path in Place.of(url).list() if "features/pool/embed/embedding/c" in path]
    push(med, url)
    pull(url, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(med)


def test_parts_that_a_broken_push_has_replaced_are_not_listed(
    med: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above; the store that ends the push has one part of the three that were there."""
    push(med, url)
    other = shutil.copytree(med, tmp_path / "other")
    opened = store.Store.open(other)
    opened.remove("features/pool/embed")
    opened.create(
        "features/pool/embed", kind="features", spec={"kind": "ntk"}, parents={}, n=4, part_rows=2,
        arrays={"norm": store.ArraySpec("float32")},
    )  # fmt: skip
    with monkeypatch.context() as broken:
        Breaks(broken, 2)
        with pytest.raises(KeyboardInterrupt):
            push(other, url, force=True)
    one = make_store(tmp_path / "one", features_done=1).path
    header = (med / "store.json").read_bytes()
    assert store.Store.open(one).get("features/pool/embed").rows_done() == 8
    for file in one.rglob("store.json*"):
        file.write_bytes(header)
    push(one, url)
    assert pull(url, tmp_path / "back").unfinished["features/pool/embed"] == "8 of 20 rows"
