"""Select by optimal transport: the rows to which the domain's mass goes, with near-duplicates sharing theirs.

A plan P moves the domain's uniform mass onto the candidates at cost 1 - cosine, with an entropy term, and is drawn by a
Kullback-Leibler term towards weights b_j that are inverse to the candidates' density (TSDS, arXiv 2410.11303: its
kernel density estimate keeps near-duplicates from counting each). TSDS samples from P's column sums with
replacement; here the N largest are taken. The solver is POT's.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkcli.errors import UsageError
from ntkcli.progress import shown
from ntkcli.selection.chooser import Chooser, Floats

ENTROPY = 0.02
"""Of the plan, in units of the cost: a hundredth of the cosine's range, so that mass spreads over neighbours only."""
PULL = 0.05
"""Strength of the pull towards the density weights: below the cost's usual spread, so that similarity decides first."""
NEAR = 0.2
"""Squared distance 2 - 2·cosine within which rows count as near-duplicates: a cosine above 0.9."""
BLOCK = 2048


def transported_mass(similar: Floats, unit: Floats) -> NDArray[np.float64]:
    """The mass that each candidate gets (n,), summing to 1; `similar` (n, n_domain) cosines, `unit` (n, p) features.

    Time O(n² · p) for the densities and O(n · n_domain) for each of some hundred iterations; memory O(n · n_domain).

    Raises:
        UsageError: POT is not installed.
    """
    weight = 1.0 / densities(unit)
    weight /= weight.sum()
    domain = np.full(similar.shape[1], 1.0 / similar.shape[1])
    plan: NDArray[np.float64] = _solver().unbalanced.sinkhorn_knopp_unbalanced(
        domain, weight, 1.0 - similar.T.astype(np.float64), ENTROPY, (float("inf"), PULL), reg_type="kl"
    )
    mass: NDArray[np.float64] = plan.sum(axis=0)
    share: NDArray[np.float64] = mass / mass.sum()
    return share


def densities(unit: Floats) -> NDArray[np.float64]:
    """Σ_j' max(0, 1 - |x_j - x_j'|² / NEAR) (n,), at least 1: about how often a row stands in the pool."""
    found = np.empty(len(unit))
    with shown("densities", total=len(unit), unit="rows") as advance:
        for start in range(0, len(unit), BLOCK):
            some = unit[start : start + BLOCK]
            squared = 2.0 - 2.0 * (some @ unit.T)
            found[start : start + BLOCK] = np.maximum(0.0, 1.0 - squared / NEAR).sum(axis=1, dtype=np.float64)
            advance(len(some))
    return np.maximum(found, 1.0)


def choose_by_mass(chooser: Chooser, mass: NDArray[np.float64]) -> None:
    """Take the candidates of most mass that are open; the mass is the gain, ties go to the earlier row. O(n log n)."""
    for row in np.lexsort((np.arange(len(mass)), -mass)).tolist():
        if chooser.done:
            return
        if chooser.open[row]:
            chooser.take(row, float(mass[row]))


def _solver() -> Any:
    for backend in ("PYTORCH", "JAX", "TENSORFLOW", "CUPY"):  # POT imports whatever is there; numpy is all we need
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{backend}", "1")
    try:
        import ot
    except ImportError as error:
        raise UsageError("--method ot needs the package POT.", "Run `pip install 'ntksel[select]'`.") from error
    return ot
