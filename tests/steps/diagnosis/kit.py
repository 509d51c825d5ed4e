"""A store with made features: directions of known kinds, so that what a diagnosis should find is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import store
from ntkcli.steps.features.arrays import feature_arrays
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.stores import open_store, write_rows
from tests.conftest import prompt_rows
from tests.conftest import write_rows as write_file

DIM = 24


def cluster(n: int, centre: np.ndarray, *, spread: float, seed: int) -> np.ndarray:
    """Rows around a direction, as float32."""
    found = centre + spread * np.random.default_rng(seed).normal(size=(n, len(centre)))
    return found.astype(np.float32)


def add_features(stored: store.Store, folder: Path, data: str, rows: np.ndarray, *, feature: str = "made") -> None:
    """A data set of as many rows, and these as its features."""
    file = write_file(folder / f"{data}.jsonl", prompt_rows(len(rows), seed=len(rows)))
    dataset, _ = register_data(stored, name=data, data=file)
    norm = np.linalg.norm(rows, axis=1).astype(np.float32)
    spec = {"kind": "embed", "made": feature, "data": dataset.spec["digest"], "rows": None, "store_dtype": "float32"}
    artefact = stored.create(
        f"features/{data}/{feature}", kind=store.Kind.FEATURES, spec=spec, parents={}, n=len(rows), part_rows=256,
        arrays=feature_arrays("embedding", rows.shape[1], "float32", some_rows=False),
    )  # fmt: skip
    write_rows(
        artefact,
        {
            "embedding": rows / norm[:, None],
            "norm": norm,
            "tokens": np.ones(len(rows), np.int32),
            "status": np.zeros(len(rows), np.uint8),
        },
    )


def half_domain(folder: Path, *, pool: int = 400, share: float = 0.5, domain: int = 80) -> Path:
    """A store whose pool has this share of rows like the domain's; the others lie in other directions."""
    rng = np.random.default_rng(0)
    own, others = rng.normal(size=DIM), rng.normal(size=DIM)
    right = round(share * pool)
    rows = np.concatenate([cluster(right, own, spread=0.3, seed=1), cluster(pool - right, others, spread=0.3, seed=2)])
    stored = open_store(folder / "s", create=True)
    add_features(stored, folder, "pool", rng.permutation(rows))
    add_features(stored, folder, "domain", cluster(domain, own, spread=0.3, seed=3))
    return folder / "s"
