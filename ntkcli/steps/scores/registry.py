"""The scores by name (`score --method`): the built-in ones, and the door for those of other packages.

Must not import numpy or torch when it is imported, so that `--help` lists the names at no cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ntkcli.doors import Door
from ntkcli.steps.scores.sorts import (
    GROUPS,
    FeatureInputs,
    FeatureScore,
    ModelInputs,
    ModelScore,
    PartScorer,
    PlannedScore,
    Request,
    Score,
    ScorePlan,
    ScoresAndTies,
    TextInputs,
    TextScore,
)


def _by_pass(method: str) -> Callable[[FeatureInputs], ScoresAndTies]:
    """A method of `SHARE_A_PASS` by itself."""

    def compute(inputs: FeatureInputs) -> ScoresAndTies:
        from ntkcli.steps.scores.feature_pass import FeaturePass

        alone = FeaturePass(
            inputs.pool, inputs.groups, centre=inputs.centre, whiten=None, k=inputs.k, subspace=inputs.subspace
        )
        alone.ask(method)
        return alone.scores(method)

    return compute


def _bm25(inputs: TextInputs) -> ScoresAndTies:
    from ntkcli.scoring.text import bm25_scores

    return bm25_scores(inputs.pool, inputs.groups, n=inputs.n), None


def _dsir(inputs: TextInputs) -> ScoresAndTies:
    from ntkcli.scoring.text import dsir_scores

    return dsir_scores(inputs.pool, inputs.groups, inputs.row_ids, seed=inputs.seed), None


def _exact(inputs: ModelInputs) -> PartScorer:
    from ntkcli.engine.features.exact_scores import ExactScorer

    return ExactScorer(
        inputs.loaded,
        model=inputs.model,
        adapter=inputs.adapter,
        settings=inputs.settings,
        batch_tokens=inputs.batch_tokens,
    )


def _less(request: Request) -> ScorePlan:
    from ntkcli.steps.scores.less import plan_less

    return plan_less(request)


def _drop(request: Request) -> ScorePlan:
    from ntkcli.steps.scores.losses import plan_drop

    return plan_drop(request)


def _random(request: Request) -> ScorePlan:
    from ntkcli.steps.scores.methods import plan_random

    return plan_random(request)


SCORES: Final = Door(
    "ntksel.scores",
    Score,
    thing="score",
    option="--method",
    builtin={
        "votes": FeatureScore(
            summary="how many domain rows have it among their k nearest",
            compute=_by_pass("votes"),
            passes=None,
            options=("centre", "k"),
        ),
        "mean": FeatureScore(
            summary="mean kernel value, as in the paper",
            compute=_by_pass("mean"),
            passes=None,
            options=("centre", "residual"),
        ),
        "cosine": FeatureScore(
            summary="mean cosine", compute=_by_pass("cosine"), passes=None, options=("centre", "residual")
        ),
        "exact": ModelScore(summary="the mean without a projection", scorer=_exact, options=("computes",)),
        "max": FeatureScore(
            summary="highest cosine", compute=_by_pass("max"), passes=None, options=("centre", "residual")
        ),
        "less": PlannedScore(
            summary="loss gradients of the domain against Adam steps",
            plan=_less,
            options=("centre", *GROUPS, "features"),
            feature="loss",
        ),
        "rds": FeatureScore(
            summary="round-robin over the domain's nearest rows",
            compute=_by_pass("rds"),
            passes=None,
            options=("centre", "k"),
        ),
        "bm25": TextScore(summary="similarity of words", compute=_bm25, version=2, passes=2),
        "dsir": TextScore(summary="similarity of words and pairs of words", compute=_dsir, options=("seed",), passes=2),
        "gist": FeatureScore(
            summary="cosine in the subspace of the domain's features",
            compute=_by_pass("gist"),
            passes=None,
            options=("centre", "subspace", "residual"),
        ),
        "drop": PlannedScore(summary="share of a row's loss that the warm-up took away", plan=_drop),
        "random": PlannedScore(summary="a random number", plan=_random, options=("match-length", "seed")),
    },
)
