#!/usr/bin/env python
"""The speed of a score pass from the page cache, against the store's own reading of the same features.

    python benchmarks/score_pass.py [--rows 1000000] [--dim 1024] [--dtype int8] [--domain 1000] [--folder DIR]

Made features in parts as `ntksel featurize` cuts them. `read by the store` is one thread that reads every part of all
arrays that a score needs and checks their checksums, without arithmetic; `read and multiply` is the least that a pass
has to do, without scales, norms and rows that are left out. Each line is the best of `--repeats`, taken in
turns, so that a busy machine is busy for all. A score that takes several passes is counted by the bytes that it reads.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from environment import describe
from numpy.typing import NDArray

import store
from ntkcli import feature_encoding
from ntkcli.choices import StoreDtype
from ntkcli.scoring.features import FeatureReader
from ntkcli.scoring.passes import one_pass
from ntkcli.scoring.similarity import MeanKernel, cosine_scores
from ntkcli.scoring.threads import one_thread_each
from ntkcli.steps.features.arrays import default_part_rows


def features(stored: store.Store, name: str, *, rows: int, dim: int, dtype: str, seed: int) -> store.Artefact:
    """Rows that share a component, as gradients do; norms over two decades."""
    draw, shift = np.random.default_rng(seed), np.random.default_rng(9).standard_normal(dim, dtype=np.float32)
    arrays = feature_encoding.arrays("sketch", dim, dtype) | {"norm": store.ArraySpec("float32")}
    part_rows = default_part_rows("ntk", rows, sum(array.row_bytes for array in arrays.values()))
    artefact = stored.create(
        f"features/{name}/ntk", kind="features", spec={}, parents={}, n=rows, part_rows=part_rows, arrays=arrays
    )
    for part in artefact.pending():
        count = np.subtract(*reversed(artefact.part_bounds(part)))
        unit = draw.standard_normal((count, dim), dtype=np.float32) + shift
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        norm = np.exp(draw.normal(0, 1.15, count)).astype(np.float32)
        artefact.write_part(part, {**feature_encoding.encode(unit, "sketch", dtype), "norm": norm})
    return artefact


def read_store(pool: store.Artefact) -> None:
    buffers = {name: pool.empty_part(name) for name in pool.arrays}
    for i in range(pool.n_parts):
        pool.read_part_into(buffers, i)


def read_and_multiply(pool: store.Artefact, direction: NDArray[np.float32], at_once: int = 8) -> None:
    """What a pass can't do without, in two threads: each reads a few parts, then converts and multiplies them."""

    class Own(threading.local):
        def __init__(self) -> None:
            self.buffers = [{name: pool.empty_part(name) for name in pool.arrays} for _ in range(at_once)]
            self.decoded = np.empty((pool.part_rows, pool.arrays["sketch"].tail[0]), dtype=np.float32)

    own, products = Own(), np.empty(pool.n, dtype=np.float32)

    def work(first: int) -> None:
        parts = range(first, min(first + at_once, pool.n_parts))
        read = [pool.read_part_into(buffer, i) for buffer, i in zip(own.buffers, parts, strict=False)]
        for i, arrays in zip(parts, read, strict=True):
            rows = arrays["sketch"]
            np.copyto(own.decoded[: len(rows)], rows)
            start, stop = pool.part_bounds(i)
            products[start:stop] = own.decoded[: len(rows)] @ direction

    with one_thread_each(), ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(0, pool.n_parts, at_once)))


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """How long it takes, and of the cores."""
    began, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - began, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--dtype", choices=list(StoreDtype), default="int8")
    parser.add_argument("--domain", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where the made store goes, and is removed from afterwards")
    args = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        stored = store.Store.open_or_create(Path(place) / "s", made_by="benchmark")
        how = {"dim": args.dim, "dtype": args.dtype}
        pool = features(stored, "pool", rows=args.rows, seed=0, **how)
        domain = features(stored, "domain", rows=args.domain, seed=1, **how)
        size = args.rows * sum(array.row_bytes for array in pool.arrays.values()) / 2**30
        what = f"{args.rows} rows x {args.dim} {args.dtype}, {size:.2f} GiB in {pool.n_parts} parts"
        print(f"{what}, {args.domain} domain rows")

        def sides() -> tuple[FeatureReader, list[FeatureReader]]:
            return FeatureReader(pool, n=pool.n), [FeatureReader(domain, n=domain.n)]

        def mean(*, centre: bool) -> None:
            both = sides()
            one_pass(both[0], by_piece=[MeanKernel(*both, centre=centre)])

        runs: dict[str, tuple[int, Callable[[], object]]] = {
            "read by the store": (1, lambda: read_store(pool)),
            "read and multiply": (1, lambda: read_and_multiply(pool, np.ones(args.dim, dtype=np.float32))),
            "mean": (1, lambda: mean(centre=False)),
            "cosine": (1, lambda: cosine_scores(*sides(), centre=False)),
            "mean --centre": (2, lambda: mean(centre=True)),
            "cosine --centre": (2, lambda: cosine_scores(*sides(), centre=True)),
        }
        best = {name: np.full(2, np.inf) for name in runs}
        for _ in range(args.repeats):
            for name, (_, run) in runs.items():
                best[name] = np.minimum(best[name], seconds(run))
        print(f"{'':20} {'passes':>6} {'seconds':>8} {'of cores':>9} {'GiB/s':>6} {'of the store':>12}")
        for name, (passes, _) in runs.items():
            took, used = best[name]
            rate, share = passes * size / took, passes * best["read by the store"][0] / took
            print(f"{name:20} {passes:6} {took:8.2f} {used:9.2f} {rate:6.2f} {share:12.0%}")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
