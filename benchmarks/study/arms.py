"""What is compared: features, pre-selections, and the arms that choose by them, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Options = Mapping[str, Any]
"""Options of a command, by their names."""


@dataclass(frozen=True, slots=True)
class Feature:
    """Options of `featurize`; `warmed`: with the adapter of the warm-up, else with the bare model or a fresh one."""

    options: Options
    warmed: bool = True


@dataclass(frozen=True, slots=True)
class Preselection:
    """The pool rows that a dear feature is computed for: the best by a cheap score, `times` as many as are selected.

    `name` is the score's: those that only differ in size share it.
    """

    name: str
    score: Options
    feature: str = ""
    times: int = 4


@dataclass(frozen=True, slots=True)
class Arm:
    """The best rows by a score, out of a pre-selection or, with `rows` = "", of the whole pool."""

    score: Options
    feature: str = ""
    rows: str = "coarse"
    select: Options = field(default_factory=dict)


COSINE_CENTRE: Final = {"method": "cosine", "centre": True}

FEATURES: Final = {
    "embed": Feature({"kind": "embed"}),
    "rds": Feature({"kind": "embed", "pooling": "weighted"}, warmed=False),
    "sum": Feature({"kind": "ntk"}),
    "centred": Feature({"kind": "ntk", "probe": "centred"}),
    "loss": Feature({"kind": "loss"}),
    "sum-all": Feature({"kind": "ntk", "positions": "all"}),
    "sum-last": Feature({"kind": "ntk", "positions": "last"}),
    "sum-fresh": Feature({"kind": "ntk"}, warmed=False),
    "sum-p1024": Feature({"kind": "ntk", "dim": 1024}),
    "rademacher": Feature({"kind": "ntk", "probe": "rademacher"}),
    "centred-4": Feature({"kind": "ntk", "probe": "centred", "probes": 4}),
    "light": Feature({"kind": "ntk", "layers": "last:4", "dim": 1024}),
}
"""Features by name."""
PRESELECTIONS: Final = {
    "coarse": Preselection("votes", {"method": "votes"}, "embed"),
    "coarse-2": Preselection("votes", {"method": "votes"}, "embed", times=2),
    "coarse-8": Preselection("votes", {"method": "votes"}, "embed", times=8),
    "coarse-random": Preselection("random", {"method": "random"}),
    "coarse-light": Preselection("light", COSINE_CENTRE, "light"),
}
"""Pre-selections by name; `coarse` is the paper's."""
PAPER: Final = "sum-mean"
REFERENCE: Final = "sum-cosine-centre"
"""The arm that `CHOICES` vary one factor of."""
CHOSEN: Final = {
    "bm25": Arm({"method": "bm25"}, rows=""),
    "embedding": Arm({"method": "cosine"}, "embed", rows=""),
    "rds": Arm({"method": "rds"}, "rds", rows=""),
    "less": Arm({"method": "less"}, "loss"),
    PAPER: Arm({"method": "mean"}, "sum"),
    "sum-cosine": Arm({"method": "cosine"}, "sum"),
    REFERENCE: Arm(COSINE_CENTRE, "sum"),
    "centred-cosine-centre": Arm(COSINE_CENTRE, "centred"),
}
"""Arms of the main table that train the same rows with every seed. `sum-mean` is the paper's method."""
DRAWN: Final = ("random", "random-length", "preselect-random")
"""Arms that draw other rows for each seed; `random-length` as long as the paper's selection."""
ALONE: Final = ("domain", "domain-tokens")
"""The domain's rows alone, for the epochs of every arm or for the tokens of the paper's."""
MAIN: Final = (*ALONE, *DRAWN, *CHOSEN)

CHOICES: Final = {
    "positions-all": Arm(COSINE_CENTRE, "sum-all"),
    "positions-last": Arm(COSINE_CENTRE, "sum-last"),
    "dot-centre": Arm({"method": "mean", "centre": True}, "sum"),
    "adapter-fresh": Arm(COSINE_CENTRE, "sum-fresh"),
    "probe-rademacher": Arm(COSINE_CENTRE, "rademacher"),
    "probes-4": Arm(COSINE_CENTRE, "centred-4"),
    "dim-1024": Arm(COSINE_CENTRE, "sum-p1024"),
    "max": Arm({"method": "max", "centre": True}, "sum"),
    "round-robin": Arm(COSINE_CENTRE, "sum", select={"method": "round-robin"}),
    "herding": Arm(COSINE_CENTRE, "sum", select={"method": "herding"}),
    "preselect-2": Arm(COSINE_CENTRE, "sum", rows="coarse-2"),
    "preselect-8": Arm(COSINE_CENTRE, "sum", rows="coarse-8"),
    "preselect-none": Arm(COSINE_CENTRE, "sum", rows="coarse-random"),
    "preselect-light": Arm(COSINE_CENTRE, "sum", rows="coarse-light"),
}
"""One factor away from `REFERENCE`; `preselect-none` chooses from as many random rows, at the same price.

Cosine without centring, the paper's raw mean and the `centred` probe are in the main table. Normalisation by length
makes no difference to a cosine.
"""
ARMS: Final = {**CHOSEN, **CHOICES}
