"""Parts, records and resuming."""

from __future__ import annotations

import numpy as np
import pytest

from store import ArraySpec, IncompleteError, Store, StoreError
from tests.store import kit


def test_a_new_artefact_has_nothing_done(store: Store) -> None:
    artefact = kit.make(store)
    assert artefact.done().tolist() == [False] * 3
    assert (artefact.pending(), artefact.rows_done(), artefact.complete) == ([0, 1, 2], 0, False)


def test_resume_finds_what_is_done(store: Store) -> None:
    kit.make(store).write_part(2, kit.part(kit.make(store), 2))
    again = kit.make(Store.open(store.path))
    assert (again.pending(), again.rows_done()) == ([0, 1], 2)
    assert kit.fill(again).complete
    assert again.rows_done() == kit.N


def test_shards_share_out_all_parts(store: Store) -> None:
    artefact = kit.make(store, part_rows=1)
    shards = [artefact.pending((i, 3)) for i in range(3)]
    assert shards[0] == [0, 3, 6, 9]
    assert sorted(i for shard in shards for i in shard) == artefact.pending()
    with pytest.raises(StoreError, match="no shard 3 of 3; count them from 0 to 2"):
        artefact.pending((3, 3))


def test_rows_without_a_record_are_refused(store: Store) -> None:
    artefact = kit.make(store)
    artefact.write_part(1, kit.part(artefact, 1))
    assert len(artefact.read("norm", 4, 8)) == 4
    message = r"features/pool/ntk is not complete: rows 0-3 of 10 .*run the same command again to finish it"
    with pytest.raises(IncompleteError, match=message):
        artefact.read("norm", 3, 5)
    with pytest.raises(IncompleteError, match="rows 0-3, 8-9 of 10"):
        artefact.blocks(["norm"])
    with pytest.raises(IncompleteError, match="rows 8-9 of 10"):
        artefact.take("norm", [5, 9])
    with pytest.raises(IncompleteError):
        artefact.verify_part(0)


def test_writing_a_part_again_changes_nothing(store: Store) -> None:
    artefact = kit.fill(kit.make(store))
    before = kit.tree(store.path)
    artefact.write_part(0, kit.part(artefact, 0))
    assert kit.tree(store.path) == before


def test_writing_other_rows_replaces_part_and_record(store: Store) -> None:
    artefact = kit.fill(kit.make(store))
    digest = artefact.digest()
    artefact.write_part(0, {**kit.part(artefact, 0), "tokens": np.zeros(4, np.int32)})
    artefact.verify_part(0)
    assert artefact.read("tokens", 0, 4).tolist() == [0] * 4
    assert artefact.digest() != digest


def test_the_digest_is_the_same_for_the_same_rows_in_any_order(store: Store) -> None:
    one, other = kit.fill(kit.make(store)), kit.make(store, "features/pool/again")
    for i in (2, 0, 1):
        other.write_part(i, kit.part(other, i))
    assert one.digest() == other.digest()
    assert kit.make(store, "features/pool/third").digest() != one.digest()


WRONG = {
    "an array is missing": ({"norm": None}, "give all of .*'norm'"),
    "an array too many": ({"more": np.zeros(4)}, "came with the arrays .*'more'"),
    "shape": ({"norm": np.zeros(3, np.float32)}, r"array norm of .* shape \(3,\); give shape \(4,\)"),
    "dtype": ({"norm": np.zeros(4)}, "array norm of .* dtype float64; give float32"),
    "byte order": ({"tokens": np.zeros(4, ">i4")}, "array tokens of .* dtype >i4; give int32"),
    "no string": ({"row_id": ["a", "b", "c", 4]}, "array row_id of .* not a string in UTF-8"),
    "half a character": ({"row_id": ["a", "b", "c", "\ud800"]}, "array row_id of .* not a string in UTF-8"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_part_that_does_not_fit_is_refused(store: Store, change: dict[str, object], message: str) -> None:
    artefact = kit.make(store)
    arrays = {**kit.part(artefact, 0), **change}
    with pytest.raises(StoreError, match=message):
        artefact.write_part(0, {name: values for name, values in arrays.items() if values is not None})
    assert artefact.pending() == [0, 1, 2]


def test_there_is_no_part_beyond_the_last(store: Store) -> None:
    artefact = kit.make(store)
    with pytest.raises(IndexError, match="part 3 of 3"):
        artefact.write_part(3, {})


def test_an_unknown_array_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match=r"no array 'sketches'; ask for one of .*'sketch'"):
        kit.fill(kit.make(store)).read("sketches")


@pytest.mark.parametrize(
    ("dtype", "tail"), [("complex64", ()), ("string", (2,)), ("float32", (0,)), ("datetime64[s]", ())]
)
def test_an_array_that_the_format_lacks_is_refused(dtype: str, tail: tuple[int, ...]) -> None:
    with pytest.raises(StoreError):
        ArraySpec(dtype, tail)
