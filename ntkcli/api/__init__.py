"""ntksel from Python: functions with the names, options and defaults of the commands, and typed results.

    from ntkcli.api import Kind, featurize, open_store, score, select

Every function takes a store (`open_store`, or a path), returns a result with the fields that `--json` prints
(`to_dict`) and methods that read its arrays as numpy, and is resumable as its command is. Errors are subclasses of
`NtkselError` and `store.StoreError`. Importing this imports no torch.
"""

from ntkcli.api.choosing import combine, explain, featurize, score, select
from ntkcli.api.comparing import ArmName, arms, split, validate
from ntkcli.api.names import PluginName, ProbeName, ScoreName, SelectorName
from ntkcli.api.opening import ArtefactKind, Store, StorePath, open_store
from ntkcli.api.results import (
    Compared,
    Evaluated,
    Explained,
    Features,
    Result,
    Scored,
    Selected,
    Split,
    Trained,
    Validated,
)
from ntkcli.api.training import evaluate, finetune
from ntkcli.choices import (
    Across,
    Design,
    Dtype,
    Equalise,
    Format,
    GroupBy,
    Kind,
    Leaks,
    LossPer,
    Normalise,
    OnError,
    Pooling,
    Positions,
    Preset,
    Projection,
    Schedule,
    Scorer,
    StoreDtype,
    TextAs,
    Thinking,
)
from ntkcli.errors import DataError, NtkselError, SpecError, UsageError
from ntkcli.progress import Progress

__all__ = [
    "Across",
    "ArmName",
    "ArtefactKind",
    "Compared",
    "DataError",
    "Design",
    "Dtype",
    "Equalise",
    "Evaluated",
    "Explained",
    "Features",
    "Format",
    "GroupBy",
    "Kind",
    "Leaks",
    "LossPer",
    "Normalise",
    "NtkselError",
    "OnError",
    "PluginName",
    "Pooling",
    "Positions",
    "Preset",
    "ProbeName",
    "Progress",
    "Projection",
    "Result",
    "Schedule",
    "ScoreName",
    "Scored",
    "Scorer",
    "Selected",
    "SelectorName",
    "SpecError",
    "Split",
    "Store",
    "StoreDtype",
    "StorePath",
    "TextAs",
    "Thinking",
    "Trained",
    "UsageError",
    "Validated",
    "arms",
    "combine",
    "evaluate",
    "explain",
    "featurize",
    "finetune",
    "open_store",
    "score",
    "select",
    "split",
    "validate",
]
