"""The arrays of a features artefact, and in which parts they lie."""

from __future__ import annotations

import store
from ntkcli import feature_encoding
from ntkcli.choices import Kind, StoreDtype

PART_ROWS = {Kind.NTK: 256, Kind.LOSS: 256, Kind.EMBED: 1024}
"""Rows of a part, at least: files of a few MB, and minutes of work that a kill can lose, not hours."""
MOST_PARTS = 1024
"""Of an artefact, by default: five files each, and a kill loses a thousandth of a long run (docs/store-format.md)."""
PART_BYTES = 128 << 20
"""Of a part, at most, by default: two are in memory at a time."""


def default_part_rows(kind: Kind, n: int, bytes_per_row: int) -> int:
    """Rows of a part for `n` rows of this size: as many as make `MOST_PARTS` parts, if they fit in `PART_BYTES`."""
    least = PART_ROWS[kind]
    few = -(-n // (MOST_PARTS * least)) * least
    return max(least, min(few, PART_BYTES // bytes_per_row // least * least))


def feature_arrays(vectors: str, dim: int, store_dtype: StoreDtype, *, some_rows: bool) -> dict[str, store.ArraySpec]:
    """The arrays of a features artefact; `some_rows`: it covers a selection."""
    arrays = feature_encoding.arrays(vectors, dim, store_dtype) | {
        "norm": store.ArraySpec("float32"),
        "tokens": store.ArraySpec("int32"),
        "status": store.ArraySpec("uint8", attrs=store.status_attrs()),
    }
    return arrays | {"row": store.ArraySpec("int64")} if some_rows else arrays


def row_bytes(arrays: dict[str, store.ArraySpec]) -> int:
    """Bytes of one row in all `arrays`."""
    return sum(array.row_bytes for array in arrays.values())
