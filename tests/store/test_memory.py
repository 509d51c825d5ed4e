"""Reading takes the memory of a block, whatever the size of the artefact."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from store import ArraySpec, Artefact, Store
from tests.store import kit

DIM, PART_ROWS, PARTS = 1024, 128, 16
PART_BYTES = PART_ROWS * DIM * 4


@pytest.fixture
def artefact(store: Store) -> Artefact:
    """8 MiB in 16 parts."""
    artefact = kit.make(store, n=PARTS * PART_ROWS, part_rows=PART_ROWS, arrays={"x": ArraySpec("float32", (DIM,))})
    for i in artefact.pending():
        artefact.write_part(i, {"x": np.full((PART_ROWS, DIM), i, np.float32)})
    return artefact


def peak(read: Callable[[], object]) -> int:
    """Bytes that `read` held at most."""
    read()  # what is imported and kept
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def use(artefact: Artefact, block_rows: int | None) -> None:
    for _, block in artefact.blocks(["x"], block_rows):
        assert len(block["x"])
        del block


@pytest.mark.parametrize(("block_rows", "parts"), [(None, 2), (7, 2), (4 * PART_ROWS, 8)])
def test_blocks_hold_one_block_and_the_one_before(artefact: Artefact, block_rows: int | None, parts: int) -> None:
    assert peak(lambda: use(artefact, block_rows)) < (parts + 0.5) * PART_BYTES


def test_rows_by_index_hold_them_and_a_part(artefact: Artefact) -> None:
    rows = np.arange(0, artefact.n, PART_ROWS)
    assert peak(lambda: artefact.take("x", rows)) < 2.5 * PART_BYTES


def test_verifying_holds_a_part(artefact: Artefact) -> None:
    assert peak(lambda: [artefact.verify_part(i) for i in range(PARTS)]) < 2.5 * PART_BYTES
