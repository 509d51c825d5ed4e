"""The scores by name (`score --method`): the built-in ones, and the door for those of other packages.

Must not import numpy or torch when it is imported, so that `--help` lists the names at no cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from ntkcli.scoring.features import Wide


def _mean(inputs: FeatureInputs) -> ScoresAndTies:
    from ntkcli.scoring.similarity import mean_scores

    return mean_scores(inputs.pool, inputs.groups, centre=inputs.centre), None


def _cosine(inputs: FeatureInputs) -> ScoresAndTies:
    from ntkcli.scoring.similarity import cosine_scores

    return cosine_scores(inputs.pool, inputs.groups, centre=inputs.centre), None


def _max(inputs: FeatureInputs) -> ScoresAndTies:
    import numpy as np

    from ntkcli.scoring.similarity import max_scores

    found = [max_scores(inputs.pool, group, centre=inputs.centre) for group in inputs.groups]
    return np.stack(found, axis=1), None


def _gist(inputs: FeatureInputs) -> ScoresAndTies:
    import numpy as np

    from ntkcli.scoring.subspace import gist_scores

    how: dict[str, Any] = {"subspace": inputs.subspace, "centre": inputs.centre}
    return np.stack([gist_scores(inputs.pool, group, **how) for group in inputs.groups], axis=1), None


def _votes(inputs: FeatureInputs) -> ScoresAndTies:
    from ntkcli.scoring.votes import vote_scores

    return _by_lists(vote_scores, inputs)


def _rds(inputs: FeatureInputs) -> ScoresAndTies:
    from ntkcli.scoring.nearest import rds_scores

    return _by_lists(rds_scores, inputs)


def _by_lists(scores: Callable[..., tuple[Wide, Wide]], inputs: FeatureInputs) -> ScoresAndTies:
    import numpy as np

    found = [scores(inputs.pool, group, k=inputs.k, centre=inputs.centre) for group in inputs.groups]
    ties = np.stack([tie for _, tie in found], axis=1).max(axis=1)
    return np.stack([each for each, _ in found], axis=1), ties


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
            summary="how many domain rows have it among their k nearest", compute=_votes, options=("centre", "k")
        ),
        "mean": FeatureScore(
            summary="mean kernel value, as in the paper", compute=_mean, options=("centre",), passes=None
        ),
        "cosine": FeatureScore(summary="mean cosine", compute=_cosine, options=("centre",), passes=None),
        "exact": ModelScore(summary="the mean without a projection", scorer=_exact, options=("computes",)),
        "max": FeatureScore(summary="highest cosine", compute=_max, options=("centre",)),
        "less": PlannedScore(
            summary="loss gradients of the domain against Adam steps",
            plan=_less,
            options=("centre", *GROUPS, "features"),
            feature="loss",
        ),
        "rds": FeatureScore(
            summary="round-robin over the domain's nearest rows", compute=_rds, options=("centre", "k")
        ),
        "bm25": TextScore(summary="similarity of words", compute=_bm25, packages=("bm25s",)),
        "dsir": TextScore(summary="similarity of words and pairs of words", compute=_dsir, options=("seed",)),
        "gist": FeatureScore(
            summary="cosine in the subspace of the domain's features", compute=_gist, options=("centre", "subspace")
        ),
        "random": PlannedScore(summary="a random number", plan=_random, options=("match-length", "seed")),
    },
)
