"""What training runs learnt, in plain words: nothing, the domain by heart, or less than seeds differ by. Pure numpy.

Each function returns a sentence that names the option to turn, or None where there is nothing to report. Losses are in
nats per item; lower is better.

Legend: I items, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ntkcli.statistics.resampling import Floats, interval, item_counts, seed_weights

BY_HEART_SHARE = 0.1
"""Of the loss that guessing has, a training loss below which the rows count as known by heart."""

SHOWN = 1e-3
"""Nats of the last digit shown: a spread that rounds to nothing is none."""


def choice_nats(loglik_IC: NDArray[np.floating], answers_I: NDArray[np.integer]) -> NDArray[np.float64]:
    """-log of the right choice's share of the choices' likelihoods, per item (I,); NaN marks choices there are none of.

    The log softmax over an item's log-likelihoods: log 3 where three choices are equally likely.
    """
    values = np.where(np.isnan(loglik_IC), -np.inf, np.asarray(loglik_IC, dtype=np.float64))
    top = values.max(axis=1, keepdims=True)
    right = np.take_along_axis(values, np.asarray(answers_I, dtype=np.int64)[:, None], axis=1)
    nats: NDArray[np.float64] = (np.log(np.exp(values - top).sum(axis=1, keepdims=True)) + top - right)[:, 0]
    return nats


def share_nats(answers: NDArray[np.int64], choices: Sequence[Sequence[str]]) -> float:
    """The loss (nats per item) of knowing only how often each answer is right, the best that ignores the questions.

    By the shares of the right answers' texts where all items have the same choices; else the mean of log(choices).
    """
    sets = {tuple(sorted(own)) for own in choices}
    if len(sets) > 1:
        return float(np.mean([np.log(len(own)) for own in choices]))
    texts = [own[answer] for own, answer in zip(choices, answers.tolist(), strict=True)]
    _, counts = np.unique(np.array(texts), return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def not_learnt(arm: str, nats_SI: Floats, shares: float, *, task: str) -> str | None:
    """A sentence if the arm's runs are no better than `shares` (`share_nats`), by the 95% interval of their mean loss.

    The interval is over items and seeds.
    """
    low, high = _mean_interval(nats_SI)
    if high < shares:
        return None
    return (
        f"{arm} has not learnt {task}: its log loss, {float(nats_SI.mean()):.3f} nats (95% {low:.3f} to {high:.3f}), "
        f"is no better than guessing by the shares of the answers, {shares:.3f}. Give a higher --lr (`ntksel "
        "finetune --lr-find` looks for one), more --epochs, or repeat the domain more often (--domain-repeat)."
    )


def by_heart(arm: str, train_loss: float, nats_SI: Floats, reference: float, *, task: str) -> str | None:
    """A sentence if the training rows are known by heart and the test items are no better than before.

    `train_loss`: nats per supervised token at the end of training; `reference`: the loss of the model before it.
    """
    if not train_loss < BY_HEART_SHARE * reference or _mean_interval(nats_SI)[1] < reference:
        return None
    return (
        f"{arm} has only learnt its rows by heart: their loss is down to {train_loss:.3f} nats, that of {task} is "
        f"{float(nats_SI.mean()):.3f} against {reference:.3f} before training. Give fewer --epochs, a lower --lr or a "
        "smaller --domain-repeat."
    )


def seeds_differ_more(losses: Mapping[str, Floats], *, task: str) -> str | None:
    """A sentence if seeds of one arm differ more than arms do: `losses` holds each arm's mean loss by seed (S,).

    Compared are the standard deviation between seeds, pooled over arms, and that of the arms' means.
    """
    several = {arm: own[np.isfinite(own)] for arm, own in losses.items()}
    several = {arm: own for arm, own in several.items() if len(own) > 1}
    if len(several) < 2:
        return None
    between = float(np.sqrt(np.mean([own.var(ddof=1) for own in several.values()])))
    arms = float(np.std([own.mean() for own in several.values()], ddof=1))
    if between <= max(arms, SHOWN / 2):
        return None
    return (
        f"On {task} seeds differ more than arms do: the standard deviation is {between:.3f} nats between seeds and "
        f"{arms:.3f} between arms. Give more --seeds, --average-weights, or a learning rate (--lr) at which every run "
        "learns (`ntksel finetune --lr-find` looks for one)."
    )


def _mean_interval(nats_SI: Floats) -> tuple[float, float]:
    """The 95% interval of the mean loss, over items and seeds."""
    rng = np.random.default_rng(0)
    seeds_RS = seed_weights(len(nats_SI), rng)
    flat = nats_SI.T
    by_items = np.concatenate([counts @ flat for counts in item_counts(nats_SI.shape[1], rng)]) / nats_SI.shape[1]
    return interval((by_items * seeds_RS).sum(axis=1))
