#!/usr/bin/env python
"""How well sketches and probes rank a pool, against the exact score. Real model, real rows (reviews), one run.

    python benchmarks/fidelity.py [--domain 24] [--pool 96] [--probes 8] [--dense]

1. Spearman and top-20% overlap of the sketched with the exact score, p = 512 ... 16384, three seeds each.
2. Rank agreement of the probes `sum`, 1, 2, 4, ... `rademacher` and `centred`, with the trace kernels estimated from
   `--probes` other directions each, all without a sketch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent / "study"))

from environment import describe
from reviews import write_reviews

from ntkcli.data import DataFile, Encoded, Encoder, Row
from ntkcli.demo import demo_model_path
from ntkcli.engine.batches import plan_batches
from ntkcli.engine.features.exact_scores import ExactScorer
from ntkcli.engine.features.extract import GradientSettings
from ntkcli.engine.gradients.probes import LogitProbe
from ntkcli.engine.gradients.projections import make_projection
from ntkcli.engine.gradients.row_gradients import GradientEngine
from ntkcli.engine.gradients.side_by_side import SideBySide
from ntkcli.engine.models.adapters import fresh_adapter
from ntkcli.engine.models.loading import LoadedModel, load_model
from ntkcli.identity import ModelIdentity, resolve_model

SIZES = (512, 1024, 2048, 4096, 8192, 16384)
SEEDS = (0, 1, 2)
TOP_SHARE = 0.2


def agreement(found: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Spearman, and the share of the exact top 20% that is in the found top 20%."""
    n = max(1, round(TOP_SHARE * len(exact)))
    overlap = len(set(np.argsort(-found)[:n]) & set(np.argsort(-exact)[:n])) / n
    return float(stats.spearmanr(found, exact).statistic), overlap


def sketches(loaded: LoadedModel, domain: list[Encoded], pool: list[Encoded], *, dense: bool) -> None:
    names = [("sjlt", p, seed) for p in SIZES for seed in SEEDS] + ([("rademacher", 512, 0)] if dense else [])
    made = [make_projection(name, dim=p, seed=seed, device=loaded.device) for name, p, seed in names]
    several = SideBySide(made, loaded.device)
    layers = fresh_adapter(loaded.model, rank=16, target_modules="all-linear", seed=0)
    engine = GradientEngine(loaded, layers, projection=several, probes=[LogitProbe(loaded.model, "sum")])

    def run(rows: list[Encoded], *, collecting: bool) -> np.ndarray:
        several.collecting = collecting
        found = np.zeros((len(rows), several.dim))
        for where in plan_batches([len(row) for row in rows], 1024):
            ((values, _),) = engine.each_probe([rows[i] for i in where], positions="completion")
            several.keep()
            found[where] = values.numpy()
        return found

    mean = run(domain, collecting=True).mean(axis=0)
    values = run(pool, collecting=False)
    exact, start = values[:, : len(domain)].mean(axis=1), 0
    print(f"\n{'projection':12} {'p':>6}  Spearman with exact (seeds)      top-20% overlap")
    for name, p in dict.fromkeys((name, p) for name, p, _ in names):
        pairs = []
        for _ in [n for n in names if n[:2] == (name, p)]:
            sketched = values[:, len(domain) + start : len(domain) + start + p]
            pairs.append(agreement(sketched @ mean[start : start + p], exact))
            start += p
        rho = ", ".join(f"{r:.4f}" for r, _ in pairs)
        print(f"{name:12} {p:6}  {rho:32} {', '.join(f'{o:.2f}' for _, o in pairs)}")


def probe_scores(
    identity: ModelIdentity, domain: list[Encoded], pool: list[Encoded], probe: str, numbers: int, seed: int
) -> list[np.ndarray]:
    """The exact score of each of `numbers` single directions."""
    found = []
    for number in range(numbers):
        settings = GradientSettings(
            kind="ntk",
            positions="completion",
            probe=probe,
            probes=1,
            projection="none",
            dim=1,
            seed=seed + number,
            layers="all",
            rank=16,
            target_modules="all-linear",
            adapter_seed=0,
        )
        loaded = load_model(identity, dtype="float32", device="auto")
        scorer = ExactScorer(loaded, model=identity, adapter=None, settings=settings)
        scorer.learn(domain)
        found.append(scorer.score(pool))
    return found


def probes(identity: ModelIdentity, domain: list[Encoded], pool: list[Encoded], count: int) -> None:
    total = probe_scores(identity, domain, pool, "sum", 1, 0)[0]
    print(f"\n{'probe':24} Spearman with the trace kernel of {count} other directions: rademacher, centred")
    kernels = {
        p: np.mean(probe_scores(identity, domain, pool, p, count, 1000), axis=0) for p in ("rademacher", "centred")
    }
    rows = {"sum": total}
    for name in ("rademacher", "centred"):
        single = probe_scores(identity, domain, pool, name, max(1, count // 2), 0)
        for k in (1, 2, 4, 8):
            if k <= len(single):
                rows[f"{name} x {k}"] = np.mean(single[:k], axis=0)
    for name, values in rows.items():
        print(f"{name:24} {', '.join(f'{agreement(values, kernel)[0]:.3f}' for kernel in kernels.values())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domain", type=int, default=24)
    parser.add_argument("--pool", type=int, default=96)
    parser.add_argument("--probes", type=int, default=8, help="0: only the sketches")
    parser.add_argument("--dense", action="store_true", help="the dense projection too, at p = 512 (slow)")
    args = parser.parse_args()
    identity = resolve_model(str(demo_model_path()))
    loaded = load_model(identity, dtype="float32", device="auto")
    encoder = Encoder(loaded.tokenizer, max_length=160)
    with tempfile.TemporaryDirectory() as folder:
        made = write_reviews(Path(folder), n_train=max(3, args.domain), n_test=120, n_pool=args.pool)
        domain, pool = (
            [encoder.encode(row) for row in islice(DataFile(path).rows(), n) if isinstance(row, Row)]
            for path, n in ((made.train, args.domain), (made.pool, args.pool))
        )
    print(describe())
    print(f"{len(domain)} domain rows, {len(pool)} pool rows, fresh adapter of rank 16 on all linear layers, probe sum")
    sketches(loaded, domain, pool, dense=args.dense)
    if args.probes:
        probes(identity, domain, pool, args.probes)


if __name__ == "__main__":
    main()
