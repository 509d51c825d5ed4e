"""What `ntksel featurize` is asked for, in one object: the data, the features, the model, how files are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ntkcli.choices import Kind
from ntkcli.errors import UsageError
from ntkcli.steps.features.settings import FeatureSettings
from ntkcli.steps.shared.settings import ModelUse, Reading, refuse_left, take


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """The options of `ntkcli.steps.features.featurize.featurize`, which says what they mean."""

    data: str | Path
    name: str
    use: ModelUse
    reading: Reading
    settings: FeatureSettings
    adapter: str | None = None
    feature: str | None = None
    rows: str | None = None
    adam: bool = False
    part_rows: int | None = None
    shard: tuple[int, int] = (0, 1)

    @classmethod
    def of(cls, **given: Any) -> Self:
        """The request that these options make, each by its own name."""
        parts = {"use": take(ModelUse, given), "reading": take(Reading, given)}
        request = take(cls, given, **parts, settings=take(FeatureSettings, given))
        refuse_left(given)
        return request

    def check(self) -> None:
        """UsageError for a value that can't be used, or two that don't go together."""
        self.settings.check()
        self.use.encoder_spec()  # checks --text-as
        if self.adam and self.settings.kind != Kind.LOSS:
            raise UsageError(
                f"--adam does not apply to --kind {self.settings.kind}: it is for gradients of the loss.",
                "Give --kind loss.",
            )
        if not 0 <= self.shard[0] < self.shard[1]:
            raise UsageError(
                f"--shard {self.shard[0]}/{self.shard[1]} is not a valid shard.", "Give I/N with I from 0 to N-1."
            )
