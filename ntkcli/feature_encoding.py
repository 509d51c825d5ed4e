"""How unit features are kept (`--store-dtype`) and read back. numpy only.

int8: each row times 127 over its largest magnitude, rounded; the factor back stands in the array `scale` (n,) float32.
The error of an entry is at most half a step, scale/2. Measured ranks: docs/store-format.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import StoreDtype

SCALE = "scale"
_STEPS = 127  # symmetric: -128 is never used, so that a row and its negative are kept alike


def arrays(vectors: str, dim: int, dtype: StoreDtype) -> dict[str, store.ArraySpec]:
    """The arrays that hold unit rows of `dim` numbers under the name `vectors`."""
    held = {vectors: store.ArraySpec(dtype, (dim,))}
    return held | {SCALE: store.ArraySpec("float32")} if dtype == "int8" else held


def encode(unit: NDArray[np.float32], vectors: str, dtype: StoreDtype) -> dict[str, NDArray[Any]]:
    """Unit rows (n, p), finite, as these arrays."""
    if dtype != "int8":
        return {vectors: unit.astype(dtype)}
    scale = np.abs(unit).max(axis=1, initial=0) / np.float32(_STEPS)
    steps = np.rint(unit / np.where(scale > 0, scale, 1)[:, None]).astype(np.int8)
    return {vectors: steps, SCALE: scale.astype(np.float32)}


def decode(held: Mapping[str, NDArray[Any]], vectors: str) -> NDArray[np.float32]:
    """The rows (n, p) float32 of the arrays. Finite values only, as all that were encoded are."""
    rows = held[vectors]
    found = _from_float16(rows) if rows.dtype == np.float16 else rows.astype(np.float32)
    if SCALE in held:
        found *= held[SCALE][:, None]
    return found


def _from_float16(rows: NDArray[np.float16]) -> NDArray[np.float32]:
    """Finite float16 as float32, exactly: numpy's own cast goes number by number in software, at a fifth of the speed.

    Sign, exponent and mantissa go to their places in a float32, whose exponent counts from 127 and not from 15: the
    number is then too small by 2^112. Fastest where the result (a few hundred KiB) stays in a core's L2 cache.
    """
    bits = rows.view(np.int16).astype(np.int32)  # extends the sign
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)  # sign, and 15 bits from bit 27 down
    found = bits.view(np.float32)
    found *= np.float32(2.0**112)
    return found
