"""Kernel matrices in the three forms that scores know, how two of them agree, and ridge regression with them.

    raw       K_ij, rows at their own length
    cosine    C_ij = K_ij / sqrt(K_ii K_jj)
    centred   the cosines of unit features less their mean over some rows (a pool's, or the rows one learns from)

The mean of a form's entries over the domain's rows is a pool row's score: `mean`, `cosine`, `cosine` with `--centre`.
Legend: N rows, n of them to learn from, c classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ntkcli.scoring.features import FeatureReader
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.shared.stores import open_store

Wide = NDArray[np.float64]
Rows = NDArray[np.int64]
FORMS: Final = ("raw", "cosine", "centred")
TOP_SHARE: Final = 0.2
PENALTIES: Final = np.logspace(-6, 2, 33)
"""Of ridge regression (n·lambda), for kernels whose diagonal is about 1."""


def stored_kernel(store: Path, sides: Mapping[str, Path], feature: str, **how: Any) -> Wide:
    """The raw kernel matrix of the rows of some data sets, one after the other, by features that the store keeps."""
    raw = []
    for name, path in sides.items():
        featurize(store, data=path, name=name, feature=feature, **how)
        made = open_store(store).get(f"features/{name}/{feature}")
        raw += [block.unit * block.norm[:, None] for block in FeatureReader(made, n=made.n).blocks()]
    rows = np.concatenate(raw)
    product: Wide = rows @ rows.T
    return product


def cosines(kernel_NN: Wide) -> Wide:
    """C of a kernel matrix."""
    length_N = np.sqrt(np.diagonal(kernel_NN))
    return kernel_NN / np.outer(length_N, length_N)


def forms(kernel_NN: Wide, mean_over: Rows) -> dict[str, Wide]:
    """A kernel matrix in every form; `mean_over`: the rows whose mean unit feature is taken out."""
    cosine = cosines(kernel_NN)
    to_mean_N = cosine[:, mean_over].mean(axis=1)
    centred = cosine - to_mean_N[:, None] - to_mean_N[None] + to_mean_N[mean_over].mean()
    return {"raw": kernel_NN, "cosine": cosine, "centred": cosines(centred)}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two kernel matrices: cos_F, Pearson of the entries above the diagonal; of the scores of pool rows by them:
    Spearman, and the share of the reference's top 20% in the other's.
    """

    cos_f: float
    pearson: float
    spearman: float
    overlap: float


def agreement(found_NN: Wide, reference_NN: Wide, *, domain: Rows, pool: Rows) -> Agreement:
    """How a kernel matrix agrees with a reference."""
    above = np.triu_indices(len(found_NN), k=1)
    scores = [kernel[np.ix_(pool, domain)].mean(axis=1) for kernel in (found_NN, reference_NN)]
    count = max(1, round(TOP_SHARE * len(pool)))
    found, wanted = (set(np.argsort(-score, kind="stable")[:count]) for score in scores)
    return Agreement(
        cos_f=float((found_NN * reference_NN).sum() / (np.linalg.norm(found_NN) * np.linalg.norm(reference_NN))),
        pearson=float(np.corrcoef(found_NN[above], reference_NN[above])[0, 1]),
        spearman=float(stats.spearmanr(*scores).statistic),
        overlap=len(found & wanted) / count,
    )


def ridge(kernel_nn: Wide, kernel_mn: Wide, y_nc: Wide, penalty: float) -> Wide:
    """Predictions (m, c) for other rows: K_mn (K + penalty I)^-1 y."""
    predicted: Wide = kernel_mn @ np.linalg.solve(kernel_nn + penalty * np.eye(len(kernel_nn)), y_nc)
    return predicted


def leave_one_out(kernel_nn: Wide, y_nc: Wide, penalty: float) -> Wide:
    """Predictions (n, c), each from the other rows alone: (Hy - H_ii y)_i / (1 - H_ii) with H = K (K + pI)^-1."""
    hat_nn = np.linalg.solve(kernel_nn + penalty * np.eye(len(kernel_nn)), kernel_nn)
    own_n1 = np.diagonal(hat_nn)[:, None]
    predicted: Wide = (hat_nn @ y_nc - own_n1 * y_nc) / (1 - own_n1)
    return predicted


def best_penalty(kernel_nn: Wide, y_nc: Wide) -> float:
    """The penalty of the lowest squared error, each row predicted from the others."""
    errors = [np.square(leave_one_out(kernel_nn, y_nc, float(penalty)) - y_nc).sum() for penalty in PENALTIES]
    return float(PENALTIES[int(np.argmin(errors))])
