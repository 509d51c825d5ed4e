"""A store of every format version that there was, read, verified and gone on with by this program and by others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from store import Checked, IncompleteError, Store, check
from store.layout import VERSION
from tests.data.stores import make
from tests.store import kit

GOLDEN = sorted(make.HERE.glob("v*"), key=lambda path: int(path.name[1:]))
EXPECTED = make.expected()
UNFINISHED = "features/pool/embed"


@pytest.fixture(params=GOLDEN, ids=[path.name for path in GOLDEN])
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy."""
    return Path(shutil.copytree(request.param, tmp_path / request.param.name))


def done(name: str) -> int:
    """Rows that are there."""
    rows = len(next(iter(EXPECTED[name].values())))
    return rows // make.PART_ROWS * make.PART_ROWS if name == UNFINISHED else rows


def same(found: Any, values: Any) -> None:
    np.testing.assert_array_equal(found, values)
    assert np.asarray(found).dtype.kind in (values.dtype.kind, "T")


def test_there_is_one_of_every_version() -> None:
    assert [path.name for path in GOLDEN] == [f"v{version}" for version in range(1, VERSION + 1)]


def test_every_row_is_read(golden: Path) -> None:
    store = Store.open(golden)
    assert {artefact.name for artefact in store.artefacts()} == set(EXPECTED)
    for name, arrays in EXPECTED.items():
        artefact = store.get(name)
        store.check_parents(artefact)
        assert (artefact.rows_done(), artefact.complete) == (done(name), name != UNFINISHED)
        assert set(artefact.arrays) == set(arrays)
        for array, values in arrays.items():
            same(artefact.read(array, 0, done(name)), values[: done(name)])
    with pytest.raises(IncompleteError, match="rows 4-4 of 5"):
        store.get(UNFINISHED).read("norm")


def test_it_verifies(golden: Path) -> None:
    rows = sum(map(done, EXPECTED))
    parts = sum(-(-done(name) // make.PART_ROWS) for name in EXPECTED)
    assert check(Store.open(golden)) == Checked((), parts, rows)


def test_plain_zarr_reads_it(golden: Path) -> None:
    root = zarr.open_group(golden / "arrays.zarr", mode="r")
    for name, arrays in EXPECTED.items():
        for array, values in arrays.items():
            same(root[f"{name}/{array}"][: done(name)], values[: done(name)])


def test_it_is_gone_on_with(golden: Path) -> None:
    """What this version would make anew of the same rows: the records, and so the digests, agree."""
    artefact = Store.open(golden).get(UNFINISHED)
    artefact.write_part(2, {array: values[4:] for array, values in EXPECTED[UNFINISHED].items()})
    again = kit.make(
        Store.open(golden),
        "features/pool/again",
        spec=artefact.spec,
        n=artefact.n,
        part_rows=artefact.part_rows,
        arrays=artefact.arrays,
    )
    for i in again.pending():
        start, stop = again.part_bounds(i)
        again.write_part(i, {array: values[start:stop] for array, values in EXPECTED[UNFINISHED].items()})
    assert again.digest() == artefact.digest()
    assert check(Store.open(golden)).findings == ()
