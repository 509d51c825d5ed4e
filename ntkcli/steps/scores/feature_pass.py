"""Scores of one feature that share one reading of the pool's features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ntkcli.scoring.features import FeatureReader, Wide
from ntkcli.scoring.nearest import Cosines, Nearest, turns, votes
from ntkcli.scoring.passes import ByBlock, one_pass
from ntkcli.scoring.similarity import MeanCosine, MeanKernel
from ntkcli.scoring.subspace import SubspaceCosine
from ntkcli.scoring.whitening import WhitenedReader, whitener
from ntkcli.steps.scores.sorts import ScoresAndTies

SHARE_A_PASS = ("votes", "mean", "cosine", "max", "rds", "gist")
"""What one pass can compute together."""
BY_LISTS = ("votes", "rds")


class FeaturePass:
    """Methods that compare a pool's features with those of groups of domain rows, all computed in one pass.

    One pass more when `centre`, for the pool's mean, and one more with `whiten`.
    """

    def __init__(
        self,
        pool: FeatureReader,
        groups: Sequence[FeatureReader],
        *,
        centre: bool,
        whiten: float | None,
        k: int | None = None,
        subspace: float = 1.0,
    ) -> None:
        self.pool, self._groups, self._k, self._subspace = pool, groups, k, subspace
        self._centre, self._whiten = centre, whiten
        self._asked: list[str] = []
        self._found: dict[str, ScoresAndTies] = {}

    def ask(self, method: str) -> None:
        """Let the pass compute this method as well."""
        self._asked.append(method)

    def skip(self, method: str) -> None:
        """It is not needed after all, if it was asked for."""
        if method in self._asked:
            self._asked.remove(method)

    @property
    def rows(self) -> int:
        """How many rows will be read by the time that all is computed."""
        passes = 1 + self._centre + (self._whiten is not None)
        return 0 if self._found else self.pool.artefact.n * passes

    def scores(self, method: str) -> ScoresAndTies:
        """Of a method that was asked for; the first call computes all."""
        if not self._found:
            self._found = self._compute(set(self._asked))
        return self._found[method]

    def _compute(self, asked: set[str]) -> dict[str, ScoresAndTies]:
        pool, groups = self._sides()
        found: dict[str, Callable[[], ScoresAndTies]] = {}
        by_piece: list[MeanKernel | MeanCosine] = []
        by_block: list[ByBlock] = []
        if "mean" in asked:
            by_piece.append(kernel := MeanKernel(pool, groups, centre=self._centre))
            found["mean"] = lambda: (kernel.scores, None)
        if "cosine" in asked:
            by_piece.append(cosine := MeanCosine(pool, groups, centre=self._centre))
            found["cosine"] = lambda: (cosine.scores, None)
        if "gist" in asked:
            inside = [SubspaceCosine(pool, each, subspace=self._subspace, centre=self._centre) for each in groups]
            by_block += inside
            found["gist"] = lambda: (_columns([use.scores for use in inside]), None)
        if asked & {"max", *BY_LISTS}:
            k = self._k if asked & set(BY_LISTS) else None
            cosines = [Cosines(pool, each, k=k, centre=self._centre) for each in groups]
            by_block += cosines
            found["max"] = lambda: (_columns([use.highest for use in cosines]), None)
            found["votes"] = partial(_by_lists, cosines, votes, lambda near: near.mean)
            found["rds"] = partial(_by_lists, cosines, turns, lambda near: near.highest)
        one_pass(pool, by_piece=by_piece, by_block=by_block)
        return {method: found[method]() for method in asked}

    def _sides(self) -> tuple[FeatureReader, Sequence[FeatureReader]]:
        if self._whiten is None:
            return self.pool, self._groups
        found = whitener(self.pool, damping=self._whiten)
        return WhitenedReader.of(self.pool, found), [WhitenedReader.of(group, found) for group in self._groups]


def _by_lists(
    cosines: Sequence[Cosines], score: Callable[[Nearest], Wide], ties: Callable[[Nearest], Wide]
) -> ScoresAndTies:
    near = [use.nearest for use in cosines]
    return _columns([score(each) for each in near]), _columns([ties(each) for each in near]).max(axis=1)


def _columns(scores: Sequence[Wide]) -> Wide:
    """Scores (n,) of each group as (n, groups)."""
    return np.stack(scores, axis=1)
