"""Types of the names that the doors have: the built-in ones, which a checker knows, and those of plug-ins."""

from __future__ import annotations

from typing import Literal, NewType, TypeAlias

PluginName = NewType("PluginName", str)
"""The name of a score, selector or probe that an installed plug-in brings: `PluginName("nearest-mean")`."""
ScoreName: TypeAlias = (
    Literal["votes", "mean", "cosine", "exact", "max", "less", "rds", "bm25", "dsir", "gist", "drop", "random"]
    | PluginName
)
"""A score, as `score --method` names it."""
SelectorName: TypeAlias = Literal["top", "round-robin", "herding", "coverage", "ot"] | PluginName
"""A selector, as `select --method` names it."""
ProbeName: TypeAlias = Literal["sum", "rademacher", "centred"] | PluginName
"""A direction in logit space, as `featurize --probe` names it."""
