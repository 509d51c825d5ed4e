"""What `ntksel eval` is asked for, in one object: runs, tasks, how items are scored, the model, how files are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ntkcli.answers import AnswerPattern
from ntkcli.choices import Normalise, Scorer, TextAs, checked
from ntkcli.errors import UsageError
from ntkcli.steps.evaluation.scorers import ScorerSettings
from ntkcli.steps.shared.settings import ModelUse, Reading, refuse_left, take

HARNESS = "lm_eval:"
"""What a task of lm-evaluation-harness begins with."""
MAX_NEW_TOKENS = 128
"""Of an answer, where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How the items of our own tasks are scored, in the words of the options."""

    scorer: Scorer = Scorer.AUTO
    normalise: Normalise = Normalise.SUM
    max_new_tokens: int = MAX_NEW_TOKENS
    answer_pattern: str | None = None

    def checked(self) -> ScorerSettings:
        """What the scorers take. UsageError for a value that can't be used."""
        checked(Scorer, self.scorer, "--scorer")
        checked(Normalise, self.normalise, "--normalise")
        if self.max_new_tokens < 1:
            raise UsageError(
                f"--max-new-tokens {self.max_new_tokens}: an answer has at least one token.", "Give 1 or more."
            )
        pattern = AnswerPattern(self.answer_pattern) if self.answer_pattern else None
        return ScorerSettings(self.normalise, self.max_new_tokens, pattern)


@dataclass(frozen=True, slots=True)
class HarnessOptions:
    """Options of tasks `lm_eval:NAME` alone; `limit` counts the items of each task."""

    num_fewshot: int | None = None
    limit: int | None = None
    apply_chat_template: bool = False


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """The options of `ntkcli.steps.evaluation.evaluate.evaluate`, which says what they mean."""

    name: str
    run: Sequence[str]
    task: Sequence[str | Path]
    use: ModelUse
    reading: Reading
    scoring: Scoring
    harness: HarnessOptions
    retain: Sequence[str | Path] = ()
    baseline: str | None = None
    export: str | Path | None = None
    force: bool = False

    @classmethod
    def of(cls, **given: Any) -> Self:
        """The settings that these options make, each by its own name."""
        parts = {"use": take(ModelUse, given), "reading": take(Reading, given)}
        parts |= {"scoring": take(Scoring, given), "harness": take(HarnessOptions, given)}
        settings = take(cls, given, **parts)
        refuse_left(given)
        return settings

    @property
    def by_harness(self) -> bool:
        """Whether a task is one of lm-evaluation-harness."""
        return any(str(each).startswith(HARNESS) for each in (*self.task, *self.retain))

    def check_options(self) -> None:
        """UsageError for an option that these tasks do not take."""
        if self.by_harness:
            _refuse_given("Tasks of lm_eval do not take", self.scoring, Scoring())
            if self.use.text_as != TextAs.CHAT:
                raise UsageError("Tasks of lm_eval do not take --text-as.", "Leave the option out.")
            how = self.reading
            _refuse_given(
                "Tasks of lm_eval do not take", Reading(how.columns or None, how.split, how.on_error), Reading()
            )
        else:
            _refuse_given("Only tasks of lm_eval take", self.harness, HarnessOptions())


def _refuse_given(why: str, options: Any, defaults: Any) -> None:
    """UsageError for the first field whose value is not its default."""
    for name in options.__slots__:
        if getattr(options, name) != getattr(defaults, name):
            raise UsageError(f"{why} --{name.replace('_', '-')}.", "Leave the option out.")
