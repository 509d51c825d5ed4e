"""Make the golden store of the present format version, once, when that goes up: `python -m tests.data.stores.make`.

One artefact of every kind that the format has, tiny, with values that `expected` computes again without any store. A
store that stands is never made anew: what was written by that version must be read for ever.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from store import ArraySpec, Store, status_attrs
from store.layout import VERSION

HERE = Path(__file__).parent
N, DIM, PART_ROWS = 5, 4, 2

Values = dict[str, dict[str, Any]]


def expected() -> Values:
    """Artefact → array → rows."""
    grid = np.arange(N * DIM).reshape(N, DIM)
    norm = np.array([1.5, 2.5, np.nan, 4.5, 1e30], np.float32)
    status = np.array([0, 1, 3, 0, 0], np.uint8)
    tokens = np.array([3, 9, 0, 1, 2**31 - 1], np.int32)
    scale = np.array([0.5, 0.25, np.nan, 2.0, 1e-9], np.float32)
    chosen = np.array([4, 0], np.int64)
    score = np.array([0.5, -1.0, np.nan, 2.0, 3.0], np.float32)
    return {
        "datasets/pool": {
            "row_id": np.array(["a", "", "é", "\U0001f600", "x\ny"], dtype=object),
            "source": np.array([0, 1, 0, 1, 0], np.int32),
            "status": np.array([0, 0, 3, 0, 0], np.uint8),
        },
        "features/pool/ntk": {
            "sketch": (grid / 32).astype(np.float16),
            "norm": norm,
            "tokens": tokens,
            "status": status,
        },
        "features/pool/small": {
            "sketch": (grid - 7).astype(np.int8),
            "scale": scale,
            "norm": norm,
            "tokens": tokens,
            "status": status,
            "row": np.arange(N, dtype=np.int64),
        },
        "features/pool/embed": {
            "embedding": (grid / 3).astype(np.float32),
            "norm": norm,
            "tokens": tokens,
            "status": status,
        },
        "scores/mean": {"score": score, "similarity": np.full(N, np.nan, np.float32)},
        "selections/best": {"row": chosen, "score": score[chosen]},
        "runs/warmup": {
            "loss": np.array([3.0, 2.0, 1.0], np.float32),
            "learning_rate": np.array([1e-4, 2e-4, 1e-5]),
            "tokens": np.array([7, 8, 2**40], np.int64),
        },
        "evals/test/base": {
            "loglik": np.array([[-1.0, -2.0], [-3.0, np.nan]]),
            "prediction": np.array([0, 0], np.int32),
            "answer": np.array([0, 1], np.int32),
            "correct": np.array([1, 0], np.uint8),
            "task": np.array([0, 0], np.int32),
            "status": np.array([0, 0], np.uint8),
        },
    }


PARENTS = {
    "features/pool/ntk": "datasets/pool",
    "features/pool/small": "datasets/pool",
    "features/pool/embed": "datasets/pool",
    "scores/mean": "features/pool/ntk",
    "selections/best": "scores/mean",
}


def make(path: Path) -> None:
    """Write the store; the last part of features/pool/embed is left undone."""
    store = Store.open_or_create(path, made_by=f"format version {VERSION}")
    for name, arrays in expected().items():
        rows = len(next(iter(arrays.values())))
        parent = PARENTS.get(name)
        artefact = store.create(
            name,
            kind={"datasets": "dataset", "features": "features"}.get(name.split("/")[0], name.split("/")[0][:-1]),
            spec={"golden": name, "seed": 0},
            parents={} if parent is None else {parent: store.get(parent).fingerprint},
            n=rows,
            part_rows=PART_ROWS,
            arrays={array: _declared(array, values) for array, values in arrays.items()},
            plan={"batch_tokens": 64},
            attrs={"data": "pool"},
        )
        for i in range(artefact.n_parts - (name == "features/pool/embed")):
            start, stop = artefact.part_bounds(i)
            artefact.write_part(i, {array: values[start:stop] for array, values in arrays.items()})


def _declared(array: str, values: Any) -> ArraySpec:
    dtype = "string" if values.dtype == object else values.dtype
    return ArraySpec(dtype, values.shape[1:], attrs=status_attrs() if array == "status" else {})


if __name__ == "__main__":
    target = HERE / f"v{VERSION}"
    if target.exists():
        sys.exit(f"{target} stands and is never made anew")
    make(target)
    (target / "tmp").rmdir()
