"""A small artefact with one array of every kind, its rows, and how to write it; shared by the tests of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from store import ArraySpec, Artefact, Store, status_attrs

NAME = "features/pool/ntk"
N, PART_ROWS = 10, 4
ARRAYS = {
    "sketch": ArraySpec("float16", (3,)),
    "norm": ArraySpec("float32"),
    "tokens": ArraySpec("int32"),
    "status": ArraySpec("uint8", attrs=status_attrs()),
    "row": ArraySpec("int64"),
    "row_id": ArraySpec(str),
}
SPEC = {"model": {"name": "smol", "digest": "abc"}, "dim": 3, "seed": 0}


def rows() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    norm = rng.random(N, dtype=np.float32)
    norm[3] = np.nan
    return {
        "sketch": rng.standard_normal((N, 3)).astype(np.float16),
        "norm": norm,
        "tokens": rng.integers(1, 2**31, N, dtype=np.int32),
        "status": rng.integers(0, 6, N, dtype=np.uint8),
        "row": rng.integers(0, 2**62, N),
        "row_id": np.array(["", "é", "row 2", "\U0001f600", "a\nb", *"vwxyz"], dtype=object),
    }


def make(store: Store, name: str = NAME, **changes: Any) -> Artefact:
    settings: dict[str, Any] = {
        "kind": "features",
        "spec": SPEC,
        "parents": {"datasets/pool": "0" * 32},
        "n": N,
        "part_rows": PART_ROWS,
        "arrays": ARRAYS,
        "plan": {"batch_tokens": 4096},
    }
    return store.create(name, **{**settings, **changes})


def part(artefact: Artefact, i: int) -> dict[str, Any]:
    start, stop = artefact.part_bounds(i)
    return {name: values[start:stop] for name, values in rows().items() if name in artefact.arrays}


def fill(artefact: Artefact) -> Artefact:
    for i in artefact.pending():
        artefact.write_part(i, part(artefact, i))
    return artefact


def run(path: Path, **changes: Any) -> Artefact:
    """What a command does: open, create or resume, write what is pending."""
    return fill(make(Store.open_or_create(path, made_by="ntksel test"), **changes))


def tree(store: Path) -> dict[str, bytes]:
    """Every file of the arrays and its bytes."""
    root = store / "arrays.zarr"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
