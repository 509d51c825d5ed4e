"""What a score is: one of four sorts, by what it needs (features, texts, a model, or a plan of its own).

Must not import numpy or torch when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

    import store
    from ntkcli.data import Encoded
    from ntkcli.engine.features.extract import GradientSettings
    from ntkcli.engine.memory import TokenBudget
    from ntkcli.engine.models.loading import LoadedModel
    from ntkcli.identity import AdapterIdentity, ModelIdentity
    from ntkcli.progress import Progress
    from ntkcli.scoring.features import FeatureReader, Rows, Wide

GROUPS: Final = ("group-by", "domains")
"""Options that a score has by being computed for each group of domain rows."""


ScoresAndTies: TypeAlias = "tuple[Wide, Wide | None]"
"""Scores (n,) or, before groups are joined, (n, groups); and what breaks ties (n,), if anything."""


@dataclass(slots=True)
class ScorePlan:
    """What a method needs: its part of the spec, its parents, the work and how many rows `compute` will read.

    `measured` gives the rows that have features and so must get a finite score, (n,); none for other methods. `skip`
    says that `compute` will not be called.
    """

    spec: dict[str, Any]
    parents: dict[str, str]
    compute: Callable[[], ScoresAndTies]
    total: Callable[[], int] = int
    measured: Callable[[], Any] = lambda: False
    skip: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class FeatureInputs:
    """The features of the pool and of each group of domain rows, streamed block by block (`reader.blocks()`).

    A block holds the rows' numbers (b,), their unit features (b, p) and norms (b,). The options are those of the
    command; `k` and `subspace` have their defaults filled in.
    """

    pool: FeatureReader
    groups: Sequence[FeatureReader]
    centre: bool
    k: int
    subspace: float
    seed: int


@dataclass(frozen=True, slots=True)
class TextInputs:
    """The pool's usable rows as (row, text), from the start at every call; and the texts of each group of the domain.

    `n` counts the pool's rows, `row_ids` (n,) are their ids.
    """

    pool: Callable[[], Iterator[tuple[int, str]]]
    groups: Sequence[Sequence[str]]
    n: int
    row_ids: Sequence[str]
    seed: int


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """The model that the pool's features were made with, loaded; its adapter, and the features' settings."""

    loaded: LoadedModel
    model: ModelIdentity
    adapter: AdapterIdentity | None
    settings: GradientSettings
    batch_tokens: int | None


class PartScorer(Protocol):
    """Scores encoded rows part by part, after it was given the domain's. A part is the unit of resume."""

    @property
    def budget(self) -> TokenBudget:
        """Tokens per batch, lowered where memory runs out."""
        ...

    def learn(self, rows: Sequence[Encoded]) -> list[int]:
        """Take domain rows in; returns those whose values are not finite."""
        ...

    def score(self, rows: Sequence[Encoded]) -> NDArray[Any]:
        """The scores of pool rows (b,); not finite where they can't be computed."""
        ...

    def end(self) -> None:
        """Called when all rows are scored."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """What `score` was asked for: the pool `dataset`, its rows `only` (None: all), and the options as they are called.

    `known` is the score of this name that is there already. An option that is not the method's own has its default.
    """

    stored: store.Store
    dataset: store.Artefact
    only: Rows | None
    method: str
    domains: Sequence[str]
    group_by: str | None
    features: Sequence[str]
    centre: bool
    k: int | None
    subspace: float
    whiten: float | None
    residual: bool
    seed: int
    match_length: str | None
    tokens_of: str | None
    known: store.Artefact | None
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A way to score, of one of the four sorts below.

    `summary` goes into the help. `options` are those of the command that mean something to it, without dashes; others
    are refused. `packages` are those whose versions are recorded with the result; `feature` is the default of
    `--feature`.
    """

    summary: str
    options: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    feature: str = "ntk"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureScore(Score):
    """Compares features: `compute(inputs)` gives scores (n,) or (n, groups) float64, and what breaks ties (n,) or None.

    n counts all rows of the pool (`inputs.pool.n`); rows without features get NaN, all others a finite value. `passes`
    is how often it reads the pool's features for one group, or None for once for all groups: for the progress bar.
    """

    compute: Callable[[FeatureInputs], ScoresAndTies]
    passes: int | None = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScore(Score):
    """Compares texts: `compute(inputs)` gives scores (n,) or (n, groups) float64, NaN for rows that the pool skips.

    `passes` is how often it reads the pool's texts, for the progress bar. `version` goes up when the same texts would
    give other scores; it is in the spec from 2 on.
    """

    compute: Callable[[TextInputs], ScoresAndTies]
    passes: int = 1
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScore(Score):
    """Runs the model on the rows themselves: `scorer(inputs)` gives what learns the domain and scores parts."""

    scorer: Callable[[ModelInputs], PartScorer]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedScore(Score):
    """Anything else: `plan(request)` gives the score's own part of the spec, its parents and the work."""

    plan: Callable[[Request], ScorePlan]


def options_of(score: Score) -> tuple[str, ...]:
    """Its own options, and those of its sort."""
    if isinstance(score, FeatureScore):
        return (*score.options, *GROUPS, "whiten")
    return (*score.options, *GROUPS) if isinstance(score, TextScore) else score.options
