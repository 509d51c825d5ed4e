"""The arrays of a features artefact, in which parts they lie, and whether the disk has room for them."""

from __future__ import annotations

from collections.abc import Sequence

import store
from ntkcli import feature_encoding
from ntkcli.errors import NtkselError
from ntkcli.units import human_bytes

PART_ROWS = {"ntk": 256, "loss": 256, "embed": 1024}
"""Rows of a part, at least: files of a few MB, and minutes of work that a kill can lose, not hours."""
MOST_PARTS = 1024
"""Of an artefact, by default: five files each, and a kill loses a thousandth of a long run (docs/store-format.md)."""
PART_BYTES = 128 << 20
"""Of a part, at most, by default: two are in memory at a time."""


def default_part_rows(kind: str, n: int, bytes_per_row: int) -> int:
    """Rows of a part for `n` rows of this size: as many as make `MOST_PARTS` parts, if they fit in `PART_BYTES`."""
    least = PART_ROWS[kind]
    few = -(-n // (MOST_PARTS * least)) * least
    return max(least, min(few, PART_BYTES // bytes_per_row // least * least))


def feature_arrays(vectors: str, dim: int, store_dtype: str, *, some_rows: bool) -> dict[str, store.ArraySpec]:
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


def refuse_without_room(
    artefact: store.Artefact,
    pending: Sequence[int],
    *,
    instead: str = ", or give another feature with a smaller --dim or --store-dtype int8",
) -> None:
    """NtkselError, before anything is computed, if the disk can't hold the parts that are pending."""
    needed, free = artefact.bytes_to_write(pending), store.free_bytes(artefact.path)
    if needed > free:
        raise NtkselError(
            f"{artefact.name} needs {human_bytes(needed)} more and the disk of {artefact.path} has "
            f"{human_bytes(free)} left.",
            f"Make room (`ntksel rm` removes what is in a store){instead}.",
        )
