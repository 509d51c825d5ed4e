"""The sections of a report in their order, each made from the facts alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ntkcli.steps.reports.blocks import Block
from ntkcli.steps.reports.collect import Facts
from ntkcli.steps.reports.sections import (
    choice,
    commands,
    diagnoses,
    neighbours,
    overview,
    results,
    rows,
    validation,
    vectors,
)

SECTIONS: Final[tuple[tuple[str, str, Callable[[Facts], list[Block]]], ...]] = (
    ("overview", "What was run", overview.overview),
    ("funnel", "From pool to selection", choice.funnel),
    ("scores", "Scores and the cut", choice.scores),
    ("sources", "Sources before and after", choice.sources),
    ("map", "Map of the features", vectors.feature_map),
    ("rows", "Rows", rows.rows),
    ("neighbours", "Nearest domain rows", neighbours.neighbours),
    ("training", "Training", results.training),
    ("results", "Evaluation", results.evaluations),
    ("validation", "Validation", validation.validation),
    ("diagnoses", "Diagnoses", diagnoses.diagnoses),
    ("cost", "Cost", overview.cost),
    ("commands", "Commands", commands.commands),
)
"""Id, title and what makes its blocks."""
