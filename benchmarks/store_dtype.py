#!/usr/bin/env python
"""What `--store-dtype` costs in rank: scores of features kept as float16 and int8 against float32.

    python benchmarks/store_dtype.py [--pool 4000] [--domain 100] [--dim 8192]

Two kinds of made sketches: `random`, unit rows without any structure, where all scores nearly tie; and `shared`, as
gradients of one model are: most of each row is one component that all share, the rest lies in a low rank with falling
weights, and norms are log-normal over two decades. Prints Spearman's rank correlation with float32 and how
many of the best tenth are the same.
"""

from __future__ import annotations

import argparse

import numpy as np
from environment import describe
from scipy.stats import spearmanr

from ntkcli import quantisation

RANK = 200
SHARED = 0.8  # of a row's squared length: METHOD.md 4, one large component


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
    return quantisation.decode(quantisation.encode(unit, "sketch", dtype), "sketch").astype(np.float64)


def scores(pool: np.ndarray, domain: np.ndarray, norms: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """mean and cosine, plain and centred, as `ntkcli.scoring.similarity` defines them."""
    raw = norms[0] * (pool @ (norms[1][:, None] * domain).mean(axis=0))
    centre = pool.mean(axis=0)
    a, x = domain - centre, pool - centre
    a, x = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, x))
    return {"mean": raw, "cosine": pool @ domain.mean(axis=0), "cosine --centre": x @ a.mean(axis=0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=4000)
    parser.add_argument("--domain", type=int, default=100)
    parser.add_argument("--dim", type=int, default=8192)
    args = parser.parse_args()
    print(describe())
    print(f"{args.pool} pool rows, {args.domain} domain rows, p = {args.dim}; against float32")
    print(f"{'sketches':8} {'kept as':8} {'score':16} {'Spearman':>10} {'same of best tenth':>20}")
    for name, make in {"random": random, "shared": shared}.items():
        draw = np.random.default_rng(0)
        sides = make(draw, args.pool, args.dim), make(draw, args.domain, args.dim)
        norms = tuple(np.exp(draw.normal(0, 1.15, len(side))) for side in sides)
        exact = scores(*(kept(side, "float32") for side in sides), norms)
        for dtype in ("float16", "int8"):
            for score, values in scores(*(kept(side, dtype) for side in sides), norms).items():
                best = [set(np.argsort(-found)[: args.pool // 10].tolist()) for found in (values, exact[score])]
                same = len(best[0] & best[1]) / len(best[1])
                rank = spearmanr(values, exact[score]).statistic
                print(f"{name:8} {dtype:8} {score:16} {rank:10.6f} {same:20.1%}")


if __name__ == "__main__":
    main()
