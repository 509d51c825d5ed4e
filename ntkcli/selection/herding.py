"""Select by herding: rows whose mean comes to match the domain's, so that a row like those chosen gains less.

    gain_t(j) = <x_j, μ - (1/(t+1)) Σ_{s chosen} x_s>      (Welling 2009; Chen, Welling and Smola 2010)

x are unit features, μ the domain's mean unit feature. The row of the highest gain brings the mean of the chosen
rows nearest to μ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntkcli.selection.chooser import Chooser, Floats

CONTENDERS = 1024
"""Rows whose gains are followed at every step; the others wait for the next full pass."""
REFRESH = 64
"""Rows that are chosen exactly, and the inverse of how far the mean may move between later passes."""


def choose_by_herding(chooser: Chooser, unit: Floats, target: NDArray[np.float64]) -> None:
    """Fill the chooser; `unit` (n, p) float32 are unit features, `target` (p,) is μ.

    A full pass finds the contenders, and the next few rows are taken among them. The first REFRESH rows are exact: with
    unit rows no gain moves by more than |d - d'|, the move of the direction, so a contender that is ahead of all other
    rows by that is the best. Later a pass serves up to t / REFRESH rows after t: they move the mean by a part in
    REFRESH, and only a row that comes up by less than that can be overlooked, until the next pass.

    Time O(n · p) for each of about REFRESH · (1 + log(N / REFRESH)) passes and O(CONTENDERS · p) for each row; memory:
    `unit` and the contenders.
    """
    total = unit[chooser.taken].sum(axis=0, dtype=np.float64)
    while not chooser.done:
        start = target - total / (len(chooser.taken) + 1)
        stale = (unit @ start.astype(np.float32)).astype(np.float64)
        open_rows = np.flatnonzero(chooser.open)
        contenders = open_rows[np.lexsort((open_rows, -stale[open_rows]))[:CONTENDERS]]
        outside = np.setdiff1d(open_rows, contenders, assume_unique=True)
        rest = float(stale[outside].max()) if len(outside) else -np.inf
        _follow(chooser, unit, target, total, np.sort(contenders), start=start, rest=rest)


def _follow(
    chooser: Chooser,
    unit: Floats,
    target: NDArray[np.float64],
    total: NDArray[np.float64],
    contenders: NDArray[np.int64],
    *,
    start: NDArray[np.float64],
    rest: float,
) -> None:
    """Take contenders while the best of them is surely or nearly the best of all; `total` grows with them."""
    near = unit[contenders]
    begun = len(chooser.taken)
    free = max(1, begun // REFRESH)
    while not chooser.done:
        direction = target - total / (len(chooser.taken) + 1)
        gains = np.where(chooser.open[contenders], near @ direction.astype(np.float32), -np.inf)
        at = int(np.argmax(gains))
        sure = gains[at] >= rest + float(np.linalg.norm(direction - start))
        if not np.isfinite(gains[at]) or not (len(chooser.taken) - begun < free or sure):
            return
        if chooser.take(int(contenders[at]), float(gains[at])):
            total += near[at]
