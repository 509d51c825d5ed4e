"""Kernel matrices in the three forms that scores know, how two of them agree, and ridge regression with them.

    raw       K_ij, rows at their own length
    cosine    C_ij = K_ij / sqrt(K_ii K_jj)
    centred   the cosines of unit features less their mean over some rows (a pool's, or the rows one learns from)

The mean of a form's entries over the domain's rows is a pool row's score: `mean`, `cosine`, `cosine` with `--centre`.
Plain numpy; knows nothing of stores or models.

Legend: N rows, n of them to learn from, m others, c classes, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ntkcli.statistics.correlation import RankCorrelation, correlation, resampled_pearson, spearman, spearman_of_few
from ntkcli.statistics.resampling import Floats, interval, item_counts

Rows = NDArray[np.int64]
FORMS: Final = ("raw", "cosine", "centred")
TOP_SHARE: Final = 0.2
PENALTIES: Final = np.logspace(-6, 2, 33)
"""Of ridge regression (n·lambda), for kernels whose diagonal is about 1."""


def cosines(kernel_NN: Floats) -> Floats:
    """C of a kernel matrix; rows of length 0 have cosines of 0."""
    length_N = np.sqrt(np.maximum(np.diagonal(kernel_NN), 0.0))
    length_N = np.where(length_N > 0, length_N, np.inf)
    found: Floats = kernel_NN / np.outer(length_N, length_N)
    return found


def forms(kernel_NN: Floats, mean_over: Rows) -> dict[str, Floats]:
    """A kernel matrix in every form; `mean_over`: the rows whose mean unit feature is taken out."""
    cosine = cosines(kernel_NN)
    to_mean_N = cosine[:, mean_over].mean(axis=1)
    centred = cosine - to_mean_N[:, None] - to_mean_N[None] + to_mean_N[mean_over].mean()
    return {"raw": kernel_NN, "cosine": cosine, "centred": cosines(centred)}


def pool_scores(kernel_NN: Floats, *, domain: Rows, pool: Rows) -> Floats:
    """The score of each pool row: its mean kernel value with the domain's rows."""
    scores: Floats = kernel_NN[np.ix_(pool, domain)].mean(axis=1)
    return scores


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two kernel matrices: cos_F, Pearson of the entries above the diagonal; of the scores of pool rows by them:
    Spearman, and the share of the reference's top 20% in the other's.
    """

    cos_f: float
    pearson: float
    spearman: float
    overlap: float


def agreement(found_NN: Floats, reference_NN: Floats, *, domain: Rows, pool: Rows) -> Agreement:
    """How a kernel matrix agrees with a reference."""
    above = np.triu_indices(len(found_NN), k=1)
    scores = [pool_scores(kernel, domain=domain, pool=pool) for kernel in (found_NN, reference_NN)]
    count = max(1, round(TOP_SHARE * len(pool)))
    found, wanted = (set(np.argsort(-score, kind="stable")[:count]) for score in scores)
    return Agreement(
        cos_f=float((found_NN * reference_NN).sum() / (np.linalg.norm(found_NN) * np.linalg.norm(reference_NN))),
        pearson=correlation(found_NN[above], reference_NN[above]),
        spearman=spearman(*scores),
        overlap=len(found & wanted) / count,
    )


def pearson_interval(found: list[Floats], reference_NN: Floats, *, seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean Pearson correlation of kernels (entries above the diagonal) with the reference.

    A bootstrap over rows: a pair of rows is there as often as both of its rows are drawn.
    """
    above = np.triu_indices(len(reference_NN), k=1)
    rng = np.random.default_rng(seed)
    resampled = []
    for counts_RN in item_counts(len(reference_NN), rng):
        weights = counts_RN[:, above[0]] * counts_RN[:, above[1]]
        each = [resampled_pearson(kernel[above], reference_NN[above], weights) for kernel in found]
        resampled.append(np.mean(each, axis=0))
    return interval(np.concatenate(resampled))


def scores_agree(found_NN: Floats, reference_NN: Floats, *, domain: Rows, pool: Rows) -> RankCorrelation:
    """Spearman of the pool rows' scores by two kernels, with a bootstrap interval over the pool rows."""
    return spearman_of_few(*(pool_scores(kernel, domain=domain, pool=pool) for kernel in (found_NN, reference_NN)))


def ridge(kernel_nn: Floats, kernel_mn: Floats, y_nc: Floats, penalty: float) -> Floats:
    """Predictions (m, c) for other rows: K_mn (K + penalty I)^-1 y."""
    predicted: Floats = kernel_mn @ np.linalg.solve(kernel_nn + penalty * np.eye(len(kernel_nn)), y_nc)
    return predicted


def leave_one_out(kernel_nn: Floats, y_nc: Floats, penalty: float) -> Floats:
    """Predictions (n, c), each from the other rows alone: (Hy - H_ii y)_i / (1 - H_ii) with H = K (K + pI)^-1."""
    hat_nn = np.linalg.solve(kernel_nn + penalty * np.eye(len(kernel_nn)), kernel_nn)
    own_n1 = np.diagonal(hat_nn)[:, None]
    predicted: Floats = (hat_nn @ y_nc - own_n1 * y_nc) / (1 - own_n1)
    return predicted


def best_penalty(kernel_nn: Floats, y_nc: Floats) -> float:
    """The penalty of the lowest squared error, each row predicted from the others."""
    errors = [np.square(leave_one_out(kernel_nn, y_nc, float(penalty)) - y_nc).sum() for penalty in PENALTIES]
    return float(PENALTIES[int(np.argmin(errors))])


@dataclass(frozen=True, slots=True)
class RidgeClasses:
    """Classes by ridge regression: predicted of the other rows (m,), and of each row from the rest (n,); n·lambda."""

    predicted: Rows
    left_out: Rows
    penalty: float


def ridge_classes(kernel_NN: Floats, answers: Rows, *, classes: int, form: str) -> RidgeClasses:
    """Classes of the rows after the first n, learnt from these and their answers (n,), with a form of the kernel.

    A constant 1 is added to centred kernels, which have lost what tells the classes' shares.
    """
    n = len(answers)
    y_nc = np.eye(classes)[answers]
    whole = forms(kernel_NN, np.arange(n))[form]
    scaled = whole / (np.diagonal(whole)[:n].mean() or 1.0) + (form == "centred")
    own, cross = scaled[:n, :n], scaled[n:, :n]
    penalty = best_penalty(own, y_nc)
    return RidgeClasses(
        ridge(own, cross, y_nc, penalty).argmax(axis=1), leave_one_out(own, y_nc, penalty).argmax(axis=1), penalty
    )
