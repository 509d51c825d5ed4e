"""What the functions of `ntkcli.api` return: the fields that `--json` prints, `to_dict`, and arrays of the store."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli import feature_encoding
from ntkcli.finite import finite
from ntkcli.steps.diagnosis.diagnose import Diagnosis
from ntkcli.steps.evaluation.summary import EvaluateResult
from ntkcli.steps.features.featurize import FeaturizeResult
from ntkcli.steps.pipelines.arms_report import ArmsResult
from ntkcli.steps.scores.query import QueryResult
from ntkcli.steps.scores.score import ScoreResult
from ntkcli.steps.selections.explain import Explanation
from ntkcli.steps.selections.explain_tokens import TokenExplanation
from ntkcli.steps.selections.select import SelectResult
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.splits.split import SplitResult
from ntkcli.steps.training.finetune import FinetuneResult
from ntkcli.steps.training.lr_result import LrFindResult
from ntkcli.steps.training.merge import MergeResult
from ntkcli.steps.validation.result import ValidateResult


class Result:
    """What all results have."""

    __slots__ = ()

    @classmethod
    def of(cls, found: Any, **more: Any) -> Self:
        """The same fields as `found`, a step's result."""
        return cls(**{field.name: getattr(found, field.name) for field in fields(found)}, **more)

    def to_dict(self) -> dict[str, Any]:
        """The object that `--json` prints: JSON values alone, None for a number that is not finite."""
        values = asdict(self)  # type: ignore[call-overload]  # every subclass is a dataclass
        values.pop("store", None)
        found: dict[str, Any] = finite(values)
        return found


def _read(path: Path, artefact: str, array: str) -> NDArray[Any]:
    return open_store(path).get(artefact).read(array)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features(Result, FeaturizeResult):
    """Features of a data set."""

    store: Path

    def vectors(self) -> NDArray[np.float32]:
        """Unit features (rows, p) float32, in memory at once; NaN where a row has none."""
        artefact = open_store(self.store).get(self.artefact)
        name = "embedding" if "embedding" in artefact.arrays else "sketch"
        held = {each: artefact.read(each) for each in (name, feature_encoding.SCALE) if each in artefact.arrays}
        found = feature_encoding.decode(held, name)
        found[np.isnan(self.norms())] = np.nan
        return found

    def norms(self) -> NDArray[np.float32]:
        """The lengths (rows,) that the features had; NaN where a row has none."""
        return _read(self.store, self.artefact, "norm")

    def losses(self) -> NDArray[np.float32]:
        """The mean loss (rows,) of each row; only of features that were made with `losses`."""
        return _read(self.store, self.artefact, "loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored(Result, ScoreResult):
    """Scores of a pool."""

    store: Path

    def values(self) -> NDArray[np.float32]:
        """A score for each row of the pool (rows,); NaN where there is none."""
        return _read(self.store, self.artefact, "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected(Result, SelectResult):
    """The rows that were selected."""

    store: Path

    def indices(self) -> NDArray[np.int64]:
        """The chosen rows of the pool, counted from 0, best first."""
        return _read(self.store, self.artefact, "row")

    def scores(self) -> NDArray[np.float32]:
        """Their scores, in the same order."""
        return _read(self.store, self.artefact, "score")

    def row_ids(self) -> list[str]:
        """Their ids, in the same order."""
        opened = open_store(self.store)
        dataset = opened.get(f"datasets/{opened.get(self.artefact).attrs['data']}")
        return [str(each) for each in dataset.take("row_id", self.indices())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained(Result, Explanation):
    """Why a row was chosen, or why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensExplained(Result, TokenExplanation):
    """A row's score as a sum over its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queried(Result, QueryResult):
    """The pool rows that are most like one row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained(Result, FinetuneResult):
    """An adapter."""

    store: Path

    def losses(self) -> NDArray[np.float32]:
        """The mean loss of each step (steps,)."""
        return _read(self.store, self.artefact, "loss")[: self.steps]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatesFound(Result, LrFindResult):
    """Learning rates that were tried, and the one to take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged(Result, MergeResult):
    """A model with an adapter merged into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Result, EvaluateResult):
    """Runs on the same items."""

    store: Path

    def arrays(self, run: str) -> dict[str, NDArray[Any]]:
        """Everything that is kept of a run's items, by name: docs/store-format.md has the arrays."""
        artefact = open_store(self.store).get(f"{self.artefact}/{store.check_name(run, 'run')}")
        return {name: artefact.read(name) for name in artefact.arrays}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared(Result, ArmsResult):
    """Arms under one budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated(Result, ValidateResult):
    """Whether rows that scores like help more than others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosed(Result, Diagnosis):
    """What a choice of rows rests on: a figure, its interval and a sentence for each check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Result, SplitResult):
    """The files of a split."""
