"""The closed lists of choices: one enum each, for the command line, the steps and the types. Knows no torch.

Every member is the word that a user writes, and equal to that string. The names of scores, selectors and probes are not
here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from ntkcli.errors import UsageError


class Kind(StrEnum):
    """Kinds of features."""

    NTK = "ntk"
    LOSS = "loss"
    EMBED = "embed"


class Positions(StrEnum):
    """Which tokens of a row a feature is computed from."""

    COMPLETION = "completion"
    ALL = "all"
    LAST = "last"


class Pooling(StrEnum):
    """How hidden states become an embedding."""

    MEAN = "mean"
    WEIGHTED = "weighted"
    LAST = "last"


class Projection(StrEnum):
    """How a gradient is projected."""

    SJLT = "sjlt"
    RADEMACHER = "rademacher"
    NONE = "none"


class StoreDtype(StrEnum):
    """Number formats that features are kept in; the first is the default."""

    FLOAT16 = "float16"
    INT8 = "int8"
    FLOAT32 = "float32"


class Dtype(StrEnum):
    """Number formats of the computation."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Schedule(StrEnum):
    """Schedules of the learning rate after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class LossPer(StrEnum):
    """What a training loss is averaged over: all supervised tokens of a step, or its rows, each by its own mean."""

    TOKEN = "token"  # noqa: S105  # not a password
    ROW = "row"


class Thinking(StrEnum):
    """Whether a chat template's thinking is switched on."""

    ON = "on"
    OFF = "off"


class TextAs(StrEnum):
    """What rows of schema text are: a user's turn in the chat template, or raw text."""

    CHAT = "chat"
    RAW = "raw"


class OnError(StrEnum):
    """What happens to rows that can't be used: the command stops, or they are left out."""

    FAIL = "fail"
    SKIP = "skip"


class Scorer(StrEnum):
    """How the items of a task are scored; auto: choices if items have them, loss for raw texts, else generate."""

    AUTO = "auto"
    CHOICES = "choices"
    GENERATE = "generate"
    LOSS = "loss"


class Normalise(StrEnum):
    """What the log-likelihood of a choice is divided by: nothing, its tokens or its characters."""

    SUM = "sum"
    TOKENS = "tokens"
    CHARACTERS = "characters"


class GroupBy(StrEnum):
    """What splits a domain into groups."""

    SOURCE = "source"


class Across(StrEnum):
    """How the scores of several groups become one."""

    MAX = "max"
    MEAN = "mean"


class Leaks(StrEnum):
    """What happens to pool rows that hold test items."""

    REMOVE = "remove"
    REPORT = "report"
    IGNORE = "ignore"


class Format(StrEnum):
    """Schemas of an export."""

    OWN = "own"
    MESSAGES = "messages"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "prompt-completion"


class Equalise(StrEnum):
    """What all arms have in common besides the rows of the domain."""

    STEPS = "steps"
    TOKENS = "tokens"
    ROWS = "rows"


class Preset(StrEnum):
    """Names of the settings in `ntkcli.kernel_presets`."""

    DEFAULT = "default"
    PAPER = "paper"


class Design(StrEnum):
    """Which runs a validation trains: on bins of a score's ranks, on random subsets, or both."""

    BINS = "bins"
    SUBSETS = "subsets"
    BOTH = "both"


Choice = TypeVar("Choice", bound=StrEnum)


def checked(kind: type[Choice], value: str, option: str) -> Choice:
    """The member of `kind` that `value` names.

    Raises:
        UsageError: there is none; lists those that there are.
    """
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{option} {value} is not known.", f"Give one of: {', '.join(kind)}.") from None
