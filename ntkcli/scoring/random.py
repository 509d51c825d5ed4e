"""Random scores: the baseline that every selection must beat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from ntkcli.scoring.features import Wide


def random_scores(row_ids: Iterable[str], *, n: int, seed: int) -> Wide:
    """Uniform scores in [0, 1) (n,) float64: a hash of (seed, row id), so the pool's order changes nothing."""
    return np.fromiter((uniform(f"{seed}|{row_id}") for row_id in row_ids), dtype=np.float64, count=n)


def uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2.0**64
