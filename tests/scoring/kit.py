"""Stores with features made of numbers, so that scores and selections are checked without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.stores import open_store, write_rows
from tests.conftest import prompt_rows

Floats = np.ndarray


def add_data(path: Path, name: str, rows: Sequence[dict[str, Any]]) -> store.Artefact:
    """A data set of these rows, from a file beside the store."""
    file = path.parent / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return register_data(open_store(path, create=True), name=name, data=file)[0]


def add_features(
    path: Path,
    name: str,
    vectors: Floats,
    *,
    feature: str = "embed",
    missing: Sequence[int] = (),
    part_rows: int = 16,
    tokens: Floats | None = None,
    losses: dict[str, Floats] | None = None,
    kind: str = "embed",
) -> None:
    """Features of the data set `name` with these raw vectors (n, p); rows in `missing` have none."""
    losses = losses or {}
    stored = open_store(path)
    dataset = stored.get(f"datasets/{name}")
    norm = np.linalg.norm(vectors, axis=1)
    unit = (vectors / norm[:, None]).astype(np.float32)
    norm[list(missing)] = np.nan
    artefact = stored.create(
        f"features/{name}/{feature}",
        kind="features",
        spec={"kind": kind, "data": dataset.spec["digest"], "p": vectors.shape[1]} | ({"losses": 1} if losses else {}),
        parents={dataset.name: dataset.fingerprint},
        n=len(vectors),
        part_rows=part_rows,
        arrays={
            "embedding": store.ArraySpec("float32", (vectors.shape[1],)),
            "norm": store.ArraySpec("float32"),
            "tokens": store.ArraySpec("int32"),
            "status": store.ArraySpec("uint8", attrs=store.status_attrs()),
            **{name: store.ArraySpec("float32") for name in losses},
        },
    )
    counts = np.arange(len(vectors)) % 7 + 1 if tokens is None else tokens
    write_rows(
        artefact,
        {
            "embedding": unit,
            "norm": norm.astype(np.float32),
            "tokens": counts.astype(np.int32),
            "status": np.zeros(len(vectors), dtype=np.uint8),
            **{name: values.astype(np.float32) for name, values in losses.items()},
        },
    )


def make_store(
    folder: Path, *, n: int = 60, m: int = 9, p: int = 8, seed: int = 0, missing: Sequence[int] = (5,)
) -> tuple[Path, Floats, Floats]:
    """A store with `pool` (three sources) and `domain` (two), and their raw vectors (n, p) and (m, p)."""
    path = folder / "s"
    draw = np.random.default_rng(seed)
    pool_rows = [{**row, "source": "abc"[i % 3]} for i, row in enumerate(prompt_rows(n, seed=1))]
    domain_rows = [{**row, "source": "xy"[i % 2]} for i, row in enumerate(prompt_rows(m, seed=2))]
    add_data(path, "pool", pool_rows)
    add_data(path, "domain", domain_rows)
    pool = draw.normal(size=(n, p)) + 1.0
    domain = draw.normal(size=(m, p)) + 0.5
    add_features(path, "pool", pool, missing=missing)
    add_features(path, "domain", domain)
    return path, pool, domain


def cosines(domain: Floats, pool: Floats, *, centre_on: Floats | None = None) -> Floats:
    """Dense reference (m, n) in float64; `centre_on` are the pool rows whose mean unit feature is taken out."""
    a, x = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (domain, pool))
    if centre_on is not None:
        mean = (centre_on / np.linalg.norm(centre_on, axis=1, keepdims=True)).mean(axis=0)
        a, x = ((s - mean) / np.linalg.norm(s - mean, axis=1, keepdims=True) for s in (a, x))
    return np.asarray(a @ x.T)
