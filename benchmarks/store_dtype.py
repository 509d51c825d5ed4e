#!/usr/bin/env python
"""What `--store-dtype` costs in rank: scores of features kept as float16 and int8 against float32.

    python benchmarks/store_dtype.py [--pool 4000] [--domain 100] [--dim 8192]
    python benchmarks/store_dtype.py --model M --pool-data POOL.jsonl --domain-data DOMAIN.jsonl --pool 120 --domain 16

With a model: the sketches of the first rows of two files, computed once and kept as float32 (`--kind`,
`--max-length`). Without: two kinds of made sketches. `random`, unit rows without any structure, where all scores nearly
tie; and `shared`, as gradients of one model are: most of each row is one component that all share, the rest lies in a
low rank with falling weights, and norms are log-normal over two decades. Prints Spearman's rank correlation with
float32 and how many of the best tenth are the same.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from environment import describe
from scipy.stats import spearmanr

from ntkcli import feature_encoding

RANK = 200
SHARED = 0.8  # of a row's squared length: gradients share one large component


def unit_rows(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def random(draw: np.random.Generator, n: int, dim: int) -> np.ndarray:
    return unit_rows(draw.standard_normal((n, dim), dtype=np.float32))


def shared(draw: np.random.Generator, n: int, dim: int) -> np.ndarray:
    basis = unit_rows(np.random.default_rng(99).standard_normal((RANK + 1, dim)))  # of pool and domain alike
    weights = draw.standard_normal((n, RANK)) / np.sqrt(np.arange(1, RANK + 1))
    rest = unit_rows(weights @ basis[1:] + 0.02 * draw.standard_normal((n, dim)))
    return unit_rows(np.sqrt(SHARED) * basis[0] + np.sqrt(1 - SHARED) * rest)


def kept(unit: np.ndarray, dtype: str) -> np.ndarray:
    """The rows as a store gives them back."""
    return feature_encoding.decode(feature_encoding.encode(unit, "sketch", dtype), "sketch").astype(np.float64)


def scores(pool: np.ndarray, domain: np.ndarray, norms: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """mean and cosine, plain and centred, as `ntkcli.scoring.similarity` defines them."""
    raw = norms[0] * (pool @ (norms[1][:, None] * domain).mean(axis=0))
    centre = pool.mean(axis=0)
    a, x = domain - centre, pool - centre
    a, x = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, x))
    return {"mean": raw, "cosine": pool @ domain.mean(axis=0), "cosine --centre": x @ a.mean(axis=0)}


Sides = tuple[np.ndarray, np.ndarray]
"""Of pool and domain: unit rows, or norms."""


def made(kind: str, args: argparse.Namespace) -> tuple[Sides, Sides]:
    """Unit rows and norms that were drawn."""
    draw = np.random.default_rng(0)
    make = {"random": random, "shared": shared}[kind]
    sides = make(draw, args.pool, args.dim), make(draw, args.domain, args.dim)
    return sides, (np.exp(draw.normal(0, 1.15, args.pool)), np.exp(draw.normal(0, 1.15, args.domain)))


def computed(args: argparse.Namespace) -> tuple[Sides, Sides]:
    """Unit rows and norms of real rows."""
    from ntkcli.data import DataFile
    from ntkcli.steps.features.featurize import featurize
    from store import Store

    units, norms = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, source, n in (("pool", args.pool_data, args.pool), ("domain", args.domain_data, args.domain)):
            rows = Path(folder) / f"{name}.jsonl"
            rows.write_text("".join(json.dumps(row.raw) + "\n" for row in islice(DataFile(source).rows(), n)))
            how = {"model": args.model, "max_length": args.max_length, "store_dtype": "float32", "dim": args.dim}
            featurize(Path(folder) / "med", data=rows, name=name, kind=args.kind, on_error="skip", **how)
            features = Store.open(Path(folder) / "med").get(f"features/{name}/{args.kind}")
            norm = features.read("norm")
            norms.append(norm[np.isfinite(norm)].astype(np.float64))
            units.append(features.read("sketch")[np.isfinite(norm)])
    return (units[0], units[1]), (norms[0], norms[1])


def compare(label: str, sides: Sides, norms: Sides) -> None:
    """Print how each format ranks the pool, against float32."""
    exact = scores(kept(sides[0], "float32"), kept(sides[1], "float32"), norms)
    tenth = max(1, len(sides[0]) // 10)
    for dtype in ("float16", "int8"):
        for score, values in scores(kept(sides[0], dtype), kept(sides[1], dtype), norms).items():
            best = [set(np.argsort(-found, kind="stable")[:tenth].tolist()) for found in (values, exact[score])]
            rank = spearmanr(values, exact[score]).statistic
            print(f"{label:8} {dtype:8} {score:16} {rank:10.6f} {len(best[0] & best[1]) / tenth:20.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=4000)
    parser.add_argument("--domain", type=int, default=100)
    parser.add_argument("--dim", type=int, default=8192)
    parser.add_argument("--model", help="compute real sketches by this model")
    parser.add_argument("--pool-data", help="with --model: the pool's rows")
    parser.add_argument("--domain-data", help="with --model: the domain's rows")
    parser.add_argument("--kind", default="ntk", choices=("ntk", "loss"))
    parser.add_argument("--max-length", type=int, default=64)
    args = parser.parse_args()
    if args.model and not (args.pool_data and args.domain_data):
        parser.error("--model needs --pool-data and --domain-data")
    print(describe())
    found = {args.kind: computed(args)} if args.model else {kind: made(kind, args) for kind in ("random", "shared")}
    first = next(iter(found.values()))[0]
    print(f"{len(first[0])} pool rows, {len(first[1])} domain rows, p = {args.dim}; against float32")
    print(f"{'sketches':8} {'kept as':8} {'score':16} {'Spearman':>10} {'same of best tenth':>20}")
    for label, (sides, norms) in found.items():
        compare(label, sides, norms)


if __name__ == "__main__":
    main()
