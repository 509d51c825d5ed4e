"""What packages that add methods import: one class for each door, and what its functions are given (docs/extend.md).

Importing it imports neither numpy nor torch.
"""

from ntkcli.data.formats.registry import READERS, Reader, Url
from ntkcli.doors import Door, Origin
from ntkcli.engine.gradients.registry import PROBES, Direction, Probe
from ntkcli.errors import DataError, NtkselError, UsageError
from ntkcli.selection.registry import SELECTORS, Candidates, Selector
from ntkcli.steps.scores.registry import SCORES
from ntkcli.steps.scores.sorts import (
    FeatureInputs,
    FeatureScore,
    ModelInputs,
    ModelScore,
    PartScorer,
    PlannedScore,
    Request,
    Score,
    ScorePlan,
    TextInputs,
    TextScore,
)

__all__ = [
    "PROBES",
    "READERS",
    "SCORES",
    "SELECTORS",
    "Candidates",
    "DataError",
    "Direction",
    "Door",
    "FeatureInputs",
    "FeatureScore",
    "ModelInputs",
    "ModelScore",
    "NtkselError",
    "Origin",
    "PartScorer",
    "PlannedScore",
    "Probe",
    "Reader",
    "Request",
    "Score",
    "ScorePlan",
    "Selector",
    "TextInputs",
    "TextScore",
    "Url",
    "UsageError",
]
