"""Scores from what the model loses on a row, and the weight that it gives a kernel. Pure arrays.

drop        s_j = (L0_j - L_j) / L0_j         L0 the row's loss before the warm-up, L under it (arXiv 2605.09404)
residual    s_j = r_j · k(x_j, domain)        r the mean length of p - y over the row's supervised tokens
"""

from __future__ import annotations

from ntkcli.scoring.features import Floats, Wide

SMALLEST_LOSS = 1e-6
"""In nats per token: below it the digits of float32 logits of order 10 say nothing, so no share of it is taken."""


def drops(before: Floats, loss: Floats) -> Wide:
    """The share of a row's loss that the warm-up took away (n,) float64: 1 all of it, 0 nothing, below 0 it grew."""
    first = before.astype("float64")
    share: Wide = (first - loss) / first.clip(min=SMALLEST_LOSS)
    return share


def weighted(scores: Wide, residual: Floats) -> Wide:
    """Scores (n,) or (n, groups), each row's times its residual (n,)."""
    weight = residual.astype("float64")
    found: Wide = scores * (weight if scores.ndim == 1 else weight[:, None])
    return found
