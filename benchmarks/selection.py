#!/usr/bin/env python
"""Time and memory of scores and selectors on synthetic features: a pool of any size streams in bounded memory.

(Not called select.py: a script's folder comes first in sys.path, and the standard library has a module `select`.)

    python benchmarks/selection.py score  [--rows 1000000] [--dim 256] [--folder DIR]
    python benchmarks/selection.py select [--rows 36000] [--dim 8192] [--domain 1000] [-n 9000] [--method herding ...]

`score`: one mean-cosine pass against reading the same files with plain `open().read()` and against the store's own
reading, checksums included, without arithmetic; best of two each, from the disk (the kernel told to forget the files)
and from the page cache.
`select`: each selector on features in memory, as `ntksel select` runs it after reading them.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from environment import describe

import store
from ntkcli.scoring.features import FeatureReader
from ntkcli.scoring.nearest import Nearest
from ntkcli.scoring.similarity import cosine_scores
from ntkcli.selection.chooser import Chooser, Limits
from ntkcli.selection.coverage import choose_by_coverage
from ntkcli.selection.herding import choose_by_herding
from ntkcli.selection.round_robin import choose_by_turns
from ntkcli.selection.transport import choose_by_mass, transported_mass

METHODS = ("round-robin", "coverage", "herding", "ot")
PART_ROWS = 4096


def unit(rows: int, dim: int, draw: np.random.Generator, shift: np.ndarray) -> np.ndarray:
    x = draw.standard_normal((rows, dim), dtype=np.float32) + shift
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def features(stored: store.Store, name: str, rows: int, dim: int, *, seed: int) -> store.Artefact:
    draw = np.random.default_rng(seed)
    shift = np.random.default_rng(9).standard_normal(dim, dtype=np.float32)
    artefact = stored.create(
        f"features/{name}/ntk",
        kind="features",
        spec={"rows": rows, "dim": dim},
        parents={},
        n=rows,
        part_rows=PART_ROWS,
        arrays={"sketch": store.ArraySpec("float16", (dim,)), "norm": store.ArraySpec("float32")},
    )
    for part in artefact.pending():
        start, stop = artefact.part_bounds(part)
        sketch = unit(stop - start, dim, draw, shift).astype(np.float16)
        artefact.write_part(part, {"sketch": sketch, "norm": np.ones(stop - start, dtype=np.float32)})
    return artefact


def best(run: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    times = []
    for _ in range(2):
        before()
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def read_raw(folder: Path) -> int:
    return sum(len(path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file())


def forget(folder: Path) -> None:
    """Drop the files (all fsynced when they were written) from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_store(pool: store.Artefact) -> None:
    buffers = {name: pool.empty_part(name) for name in ("sketch", "norm")}
    for i in range(pool.n_parts):
        pool.read_part_into(buffers, i)


def bench_score(rows: int, dim: int, folder: Path) -> None:
    stored = store.Store.open_or_create(folder / "s", made_by="benchmark")
    pool, domain = features(stored, "pool", rows, dim, seed=0), features(stored, "domain", 1000, dim, seed=1)
    size, before = pool.size_bytes() / 2**30, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{rows} rows x {dim} float16, {size:.2f} GiB in {pool.n_parts} parts, 1000 domain rows")

    def passes(centre: bool) -> object:
        return cosine_scores(FeatureReader(pool, n=rows), [FeatureReader(domain, n=1000)], centre=centre)

    runs: dict[str, Callable[[], object]] = {
        "read the files": lambda: read_raw(pool.path),
        "read by the store": lambda: read_store(pool),
        "score": lambda: passes(False),
        "score --centre (two passes)": lambda: passes(True),
    }
    for where, ready in (("disk", lambda: forget(pool.path)), ("page cache", lambda: read_raw(pool.path))):
        raw = 0.0
        for name, run in runs.items():
            took = best(run, ready)
            raw = raw or took
            print(f"{where:12} {name:30} {size / took:6.2f} GiB/s, {raw / took:4.0%} of reading the files", flush=True)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory {after / 2**20:.2f} GiB, {(after - before) / 2**20:.2f} of it since the data was made")


def bench_select(rows: int, dim: int, n_domain: int, n: int, methods: list[str]) -> None:
    shift = np.random.default_rng(9).standard_normal(dim, dtype=np.float32)
    x, a = (unit(count, dim, np.random.default_rng(seed), shift) for count, seed in ((rows, 0), (n_domain, 1)))
    began = time.perf_counter()
    similar = x @ a.T
    print(f"{rows} x {dim} against {n_domain}: cosines in {time.perf_counter() - began:.1f} s")

    def nearest(is_open: np.ndarray, k: int) -> Nearest:
        where = np.flatnonzero(is_open)
        order = where[np.argsort(-similar[where].T, axis=1, kind="stable")[:, :k]]
        none = np.zeros(0)
        return Nearest(order, np.take_along_axis(similar.T, order, axis=1), none, none)

    def run(method: str, chooser: Chooser) -> None:
        if method == "round-robin":
            choose_by_turns(chooser, nearest, n_domain=n_domain)
        elif method == "coverage":
            choose_by_coverage(chooser, similar.copy(), exponent=0.5)
        elif method == "herding":
            choose_by_herding(chooser, x, a.mean(axis=0, dtype=np.float64))
        else:
            choose_by_mass(chooser, transported_mass(similar, x))

    for method in methods:
        chooser = Chooser(Limits(source=np.zeros(rows, dtype=np.int64), n=n))
        began = time.perf_counter()
        run(method, chooser)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        seconds = time.perf_counter() - began
        print(f"{method}: {len(chooser.taken)} rows in {seconds:.1f} s, peak memory so far {peak:.1f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["score", "select"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--dim", type=int)
    parser.add_argument("--domain", type=int, default=1000)
    parser.add_argument("-n", type=int, default=9000)
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--folder", type=Path, help="where the synthetic store goes, and is removed from afterwards")
    given = parser.parse_args()
    print(describe())
    if given.what == "select":
        bench_select(given.rows or 36_000, given.dim or 8192, given.domain, given.n, given.method or list(METHODS))
        return
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        bench_score(given.rows or 1_000_000, given.dim or 256, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
