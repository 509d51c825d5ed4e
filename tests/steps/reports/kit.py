"""Stores made of arrays alone, without a model: a pool, a domain, features, a score and a selection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.stores import open_store, write_rows

HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- <script> -->",
    "\u0645\u0631\u062d\u0628\u0627 \u202ereversed\u202c text",
    "control \x1b[31m \x07 \x9b and \u2028 a line separator",
    "{{ 7 * 7 }} {% raw %} | pipe `ticks` [link](javascript:alert(1))",
    "&lt;b&gt; & \"quotes\" 'single' ]]>",
    "<a href='https://example.invalid'>click</a><b>bold</b>",
]


def write_pool(path: Path, n: int, *, texts: Sequence[str] = (), sources: Sequence[str] = ("general", "law")) -> Path:
    """`n` rows of prompt and completion; the first ones have `texts`."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            text = texts[i % len(texts)] if texts else f"question number {i}"
            row = {"id": f"r{i}", "source": sources[i % len(sources)], "prompt": text, "completion": f"answer {i}"}
            file.write(json.dumps(row) + "\n")
    return path


def add_features(stored: store.Store, data: str, n: int, *, dim: int = 8, seed: int = 0, part_rows: int = 64) -> Any:
    dataset = stored.get(f"datasets/{data}")
    arrays = {"sketch": store.ArraySpec("float32", (dim,)), "norm": store.ArraySpec("float32"),
              "tokens": store.ArraySpec("int32"), "status": store.ArraySpec("uint8")}  # fmt: skip
    draw = np.random.default_rng(seed)
    unit = draw.normal(size=(n, dim)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    made = stored.create(
        f"features/{data}/ntk", kind="features", spec={"kind": "ntk", "data": dataset.spec["digest"], "model": "m"},
        parents={dataset.name: dataset.fingerprint}, n=n, part_rows=part_rows, arrays=arrays,
    )  # fmt: skip
    ones = np.ones(n, dtype=np.float32)
    write_rows(made, {"sketch": unit, "norm": ones, "tokens": ones.astype(np.int32), "status": np.zeros(n, np.uint8)})
    return made


def add_score(
    stored: store.Store,
    data: str,
    values: np.ndarray,
    *,
    name: str = "s",
    parents: Sequence[Any] = (),
    method: str = "mean",
) -> Any:
    dataset = stored.get(f"datasets/{data}")
    made = stored.create(
        f"scores/{name}", kind="score", spec={"method": method, "of": name},
        parents={each.name: each.fingerprint for each in (dataset, *parents)}, n=len(values), part_rows=1 << 16,
        arrays={"score": store.ArraySpec("float32"), "similarity": store.ArraySpec("float32")}, attrs={"data": data},
    )  # fmt: skip
    write_rows(made, {"score": values.astype(np.float32), "similarity": np.full(len(values), np.nan, np.float32)})
    return made


def add_selection(stored: store.Store, score: Any, n: int, *, name: str = "c") -> Any:
    values = score.read("score")
    rows = np.argsort(-values, kind="stable")[:n]
    made = stored.create(
        f"selections/{name}", kind="selection", spec={"method": "top", "n": n}, parents={score.name: score.fingerprint},
        n=n, part_rows=1 << 16, arrays={"row": store.ArraySpec("int64"), "score": store.ArraySpec("float32")},
        attrs={"data": score.attrs["data"]},
    )  # fmt: skip
    write_rows(made, {"row": rows, "score": values[rows]})
    return made


def made_store(folder: Path, n: int = 200, *, texts: Sequence[str] = (), sources: Sequence[str] = ("general", "law"),
               chosen: int = 30) -> Path:  # fmt: skip
    """A store with everything up to a selection."""
    path = folder / "med"
    stored = open_store(path, create=True)
    register_data(stored, name="pool", data=write_pool(folder / "pool.jsonl", n, texts=texts, sources=sources))
    register_data(stored, name="domain", data=write_pool(folder / "domain.jsonl", 20, texts=texts))
    sides = [add_features(stored, "pool", n, part_rows=max(64, n // 50)), add_features(stored, "domain", 20, seed=1)]
    values = np.random.default_rng(2).normal(size=n)
    add_selection(stored, add_score(stored, "pool", values, parents=sides), chosen)
    return path
