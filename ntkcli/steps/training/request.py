"""What `ntksel finetune` is asked for, in one object: the rows, the training, the model, how files are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import store
from ntkcli.errors import UsageError
from ntkcli.steps.shared.hub_push import check_push
from ntkcli.steps.shared.settings import ModelUse, Reading, refuse_left, take
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.reporters import check_reporters
from ntkcli.steps.training.rows import TrainingSet, parse_train, resolve_train
from ntkcli.steps.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """The options of `ntkcli.steps.training.finetune.finetune`, which says what they mean."""

    name: str
    train: Sequence[str]
    use: ModelUse
    reading: Reading
    settings: TrainingSettings
    then: Sequence[str] = ()
    data: Sequence[str] = ()
    match_tokens: str | None = None
    match_steps: str | None = None
    init_adapter: str | None = None
    gradient_checkpointing: bool = False
    keep_optimizer: bool = False
    keep_checkpoints: bool = False
    hold_out_of: str | None = None
    group: str | None = None
    report_to: Sequence[str] = ()
    push_to_hub: str | None = None
    public: bool = False

    @classmethod
    def of(cls, **given: Any) -> Self:
        """The request that these options make, each by its own name."""
        parts = {"use": take(ModelUse, given), "reading": take(Reading, given)}
        request = take(cls, given, **parts, settings=take(TrainingSettings, given))
        refuse_left(given)
        return request

    def settled(self, store_path: str | Path) -> Self:
        """With the tokens or steps of the run that is to be matched, and every option checked."""
        request, asked = self, self.settings
        if self.match_tokens is not None:
            if asked.epochs is not None or asked.max_tokens is not None:
                raise UsageError(
                    "--match-tokens says when to stop, as --epochs and --max-tokens do.", "Give one of them."
                )
            tokens = tokens_of_run(open_store(store_path), self.match_tokens)
            request = replace(self, settings=replace(asked, max_tokens=tokens))
        if self.match_steps is not None:
            asked = request.settings
            if (asked.epochs, asked.max_tokens, asked.max_steps) != (None, None, None):
                raise UsageError(
                    "--match-steps says when to stop, as --epochs and --max-steps do.", "Give one of them."
                )
            steps = steps_of_run(open_store(store_path), self.match_steps)
            request = replace(self, settings=replace(asked, max_steps=steps))
        self.set_held_out_of()  # checks it
        request.settings.check()
        request.use.encoder_spec()  # checks --text-as
        if self.then and (request.settings.max_tokens, request.settings.max_steps) != (None, None):
            raise UsageError(
                "--then makes two stages of --epochs each, which a budget of tokens or steps can't end.",
                "Give --epochs.",
            )
        check_reporters(self.report_to)
        check_push(self.push_to_hub, public=self.public)
        return request

    def set_held_out_of(self) -> int | None:
        """The position in `--train` of the set that rows are held out of; None for all. UsageError if it is none."""
        if self.hold_out_of is None:
            return None
        if not self.settings.hold_out:
            raise UsageError(f"--hold-out-of {self.hold_out_of}: no rows are held out.", "Give --hold-out 0.1 too.")
        names = [parse_train(text)[0] for text in self.train]
        if self.hold_out_of not in names:
            raise UsageError(
                f"--hold-out-of {self.hold_out_of} is not one of --train.", f"Give one of: {', '.join(names)}."
            )
        return names.index(self.hold_out_of)

    def resolve_sets(self, stored: store.Store | None) -> tuple[list[TrainingSet], list[TrainingSet]]:
        """The rows of `--train` and of `--then`."""
        how: dict[str, Any] = {
            "columns": self.reading.columns,
            "split": self.reading.split,
            "on_error": self.reading.on_error,
            "text_as": self.use.text_as,
        }
        first = resolve_train(stored, self.train, **how, data=self.data)
        second = resolve_train(stored, self.then, **how, option="--then")
        return first, second


def tokens_of_run(stored: store.Store, name: str) -> int:
    """The tokens that a finished run was trained on, all its steps together."""
    return int(stored.get(f"runs/{store.check_name(name, '--match-tokens')}").read("tokens").sum())


def steps_of_run(stored: store.Store, name: str) -> int:
    """The steps that a finished run took: fewer than were planned if it stopped early."""
    return int((stored.get(f"runs/{store.check_name(name, '--match-steps')}").read("tokens") > 0).sum())
