"""What is written is what is read, by this package and by plain zarr."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from store import ArraySpec, IncompleteError, Store, StoreError
from tests.store import kit

EVERY_ARRAY = sorted(kit.ARRAYS)


@pytest.mark.parametrize("array", EVERY_ARRAY)
def test_plain_zarr_reads_the_same(store: Store, array: str) -> None:
    artefact = kit.fill(kit.make(store))
    plain = zarr.open_group(store.path / "arrays.zarr", mode="r")[f"{kit.NAME}/{array}"]
    np.testing.assert_array_equal(np.asarray(plain[:], dtype=artefact.arrays[array].numpy), kit.rows()[array])
    np.testing.assert_array_equal(artefact.read(array), kit.rows()[array])
    assert artefact.read(array).dtype == artefact.arrays[array].numpy


def test_plain_zarr_writes_the_same_bytes(store: Store) -> None:
    kit.fill(kit.make(store))
    ours = kit.tree(store.path)
    group = zarr.open_group(store.path / "arrays.zarr", mode="r+")[kit.NAME]
    for name, values in kit.rows().items():
        group[name][:] = values
    assert kit.tree(store.path) == ours


def test_plain_zarr_sees_attributes_groups_and_records(store: Store) -> None:
    artefact = kit.fill(kit.make(store))
    root = zarr.open_group(store.path / "arrays.zarr", mode="r")
    group = root[kit.NAME]
    assert [name for name, _ in root.groups()] == ["features"]
    members = sorted(name for name, _ in root.members(max_depth=None))  # and no warning for the copy of the document
    assert members == [
        "features",
        "features/pool",
        kit.NAME,
        *(f"{kit.NAME}/{a}" for a in sorted([*kit.ARRAYS, "part"])),
    ]
    assert dict(group.attrs) == artefact.attrs
    assert group["status"].attrs["flag_meanings"].split()[3] == "empty"
    assert group["sketch"].metadata.dimension_names == ("row", "sketch_1")
    assert np.all(group["part"][:] != 0)


def test_rows_not_written_show_as_fill_values_in_plain_zarr(store: Store) -> None:
    artefact = kit.make(store)
    artefact.write_part(1, kit.part(artefact, 1))
    group = zarr.open_group(store.path / "arrays.zarr", mode="r")[kit.NAME]
    assert np.isnan(group["norm"][:4]).all()
    assert group["part"][:].astype(bool).tolist() == [False, True, False]


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 4), (3, 9), (5, 6), (8, 10), (4, 4), (7, 3), (-2, None)])
def test_read_takes_ranges_as_a_slice_does(store: Store, start: int, stop: int | None) -> None:
    artefact = kit.fill(kit.make(store))
    for array in EVERY_ARRAY:
        np.testing.assert_array_equal(artefact.read(array, start, stop), kit.rows()[array][start:stop])


@pytest.mark.parametrize("block_rows", [None, 1, 3, 4, 7, 8, 100])
def test_blocks_give_all_rows_in_order(store: Store, block_rows: int | None) -> None:
    artefact = kit.fill(kit.make(store))
    blocks = list(artefact.blocks(EVERY_ARRAY, block_rows))
    assert [i for where, _ in blocks for i in range(kit.N)[where]] == list(range(kit.N))
    for where, block in blocks:
        assert where.stop - where.start <= (block_rows or kit.PART_ROWS)
        for array in EVERY_ARRAY:
            np.testing.assert_array_equal(block[array], kit.rows()[array][where])


def test_parts_are_read_into_one_array_again_and_again(store: Store) -> None:
    artefact = kit.fill(kit.make(store))
    for array in EVERY_ARRAY:
        out = artefact.empty_part(array)
        for i in range(artefact.n_parts):
            expected = kit.rows()[array][slice(*artefact.part_bounds(i))]
            found = artefact.read_part_into({array: out}, i)[array]
            np.testing.assert_array_equal(found, expected)
            assert np.shares_memory(found, out)
            np.testing.assert_array_equal(artefact.read_part(array, i), expected)
    with pytest.raises(StoreError, match="can't take part 0"):
        artefact.read_part_into({"sketch": np.empty((4, 3), np.float32)}, 0)
    artefact.forget_part(1)
    with pytest.raises(IncompleteError, match="rows 4-7"):
        artefact.read_part("sketch", 1)
    with pytest.raises(IncompleteError, match="rows 4-7"):
        artefact.read_part_into({"sketch": artefact.empty_part("sketch")}, 1)


def test_take_gives_rows_in_the_order_asked(store: Store) -> None:
    artefact = kit.fill(kit.make(store))
    index = [9, 0, 5, 5, 3, 8]
    for array in EVERY_ARRAY:
        np.testing.assert_array_equal(artefact.take(array, index), kit.rows()[array][index])
        assert artefact.take(array, []).shape == (0, *kit.ARRAYS[array].tail)
    with pytest.raises(IndexError, match="which has 10"):
        artefact.take("norm", [10])
    with pytest.raises(IndexError):
        artefact.take("norm", [-1])


def test_an_artefact_of_no_rows_is_complete(store: Store) -> None:
    artefact = kit.make(store, n=0)
    assert artefact.complete
    assert artefact.read("sketch").shape == (0, 3)
    assert list(artefact.blocks(["norm"])) == []


DTYPES = ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint16", "bool", "string"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@st.composite
def written(draw: st.DrawFn) -> tuple[ArraySpec, int, Any]:
    spec = draw(st.sampled_from(DTYPES))
    n, part_rows = draw(st.integers(1, 20)), draw(st.integers(1, 25))
    tail = () if spec == "string" else tuple(draw(st.lists(st.integers(1, 4), max_size=2)))
    if spec == "string":
        return ArraySpec(spec), part_rows, np.array(draw(st.lists(TEXT, min_size=n, max_size=n)), dtype=object)
    return ArraySpec(spec, tail), part_rows, draw(hnp.arrays(spec, (n, *tail)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=written(), data=st.data())
def test_any_shape_part_size_and_dtype(tmp_path: Path, case: tuple[ArraySpec, int, Any], data: st.DataObject) -> None:
    spec, part_rows, values = case
    store = Store.open_or_create(tmp_path / secrets.token_hex(8), made_by="test")
    artefact = kit.make(store, n=len(values), part_rows=part_rows, arrays={"x": spec})
    for i in data.draw(st.permutations(artefact.pending())):
        start, stop = artefact.part_bounds(i)
        artefact.write_part(i, {"x": values[start:stop]})
    np.testing.assert_array_equal(artefact.read("x"), values)
    index = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=30))
    np.testing.assert_array_equal(artefact.take("x", index), values[index])
    plain = zarr.open_array(artefact.path / "x", mode="r")[:]
    np.testing.assert_array_equal(np.asarray(plain, dtype=spec.numpy), values)
    for i in range(artefact.n_parts):
        artefact.verify_part(i)


def test_reading_needs_no_zarr(store: Store, tmp_path: Path) -> None:
    import subprocess
    import sys

    kit.fill(kit.make(store))
    code = (
        "import sys; from store import Store\n"
        f"a, = Store.open({str(store.path)!r}).artefacts()\n"
        "assert a.complete and a.size_bytes() and a.arrays and a.digest() and len(a.read('norm')) == 10\n"
        "assert not {'zarr', 'torch', 'typer', 'ntkcli'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
