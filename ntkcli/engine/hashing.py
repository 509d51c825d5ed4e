"""Counter-based random numbers: pure functions of (seed, name, index), the same on every device. numpy only."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""Part of every hash: another number gives other sketches and other fresh adapters."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64 (Steele, Lea, Flood 2014): increment and finaliser
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def hash_u64(seed: int, name: str, count: int) -> NDArray[np.uint64]:
    """`count` hash values (uint64) for the indices 0, 1, ...: a pure function of (seed, name, index)."""
    key = hashlib.blake2b(f"{VERSION}|{seed}|{name}".encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        z = np.uint64(int.from_bytes(key, "little")) + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def signs(seed: int, name: str, count: int) -> NDArray[np.float32]:
    """`count` random signs, -1.0 or 1.0 (float32), from the hash's top bit."""
    return np.where(hash_u64(seed, name, count) >> np.uint64(63), np.float32(1), np.float32(-1))
