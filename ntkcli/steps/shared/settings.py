"""Groups of options that several steps share, as one object each, and how keywords become such objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import store
from ntkcli.choices import Dtype, OnError, TextAs
from ntkcli.data import Encoder
from ntkcli.group import ALONE, Group
from ntkcli.identity import ModelIdentity, resolve_model
from ntkcli.steps.shared.model_settings import count_settings, encoder_spec, make_encoder, settle_dtype


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A base model, and how it encodes and computes rows, in the words of the options."""

    model: str
    max_length: int = 1024
    thinking: bool | None = None
    text_as: TextAs = TextAs.CHAT
    dtype: Dtype = Dtype.AUTO
    device: str = "auto"
    batch_tokens: int | None = None
    trust_remote_code: bool = False
    processes: Group = ALONE
    """Those that hold the model together, where there are several."""

    def resolve(self) -> ModelIdentity:
        """The model, found and hashed. UsageError if there is none."""
        return resolve_model(self.model, trust_remote_code=self.trust_remote_code)

    def encoder_spec(self) -> dict[str, Any]:
        """The part of a spec that decides a row's tokens, besides the tokenizer."""
        return encoder_spec(self.max_length, self.thinking, self.text_as)

    def encoder(self, tokenizer: Any) -> Encoder:
        """Rows as tokens of this tokenizer."""
        return make_encoder(tokenizer, self.encoder_spec())

    def counting(self) -> dict[str, Any]:
        """What changes how long whole rows are: arguments of `ntkcli.steps.shared.token_counts`."""
        return count_settings(self.encoder_spec())

    def settle_dtype(self, known: store.Artefact | None) -> str:
        """The number format to compute in; `auto` takes that of `known`, the artefact that was begun before."""
        return settle_dtype(self.dtype, self.device, known)


@dataclass(frozen=True, slots=True)
class Reading:
    """How files of rows are read, in the words of the options."""

    columns: Mapping[str, str] | None = None
    split: str | None = None
    on_error: OnError = OnError.FAIL


Settings = TypeVar("Settings")


def take(kind: type[Settings], given: dict[str, Any], **others: Any) -> Settings:
    """An object of the dataclass `kind`: its fields are taken out of `given`, where they are, and from `others`."""
    own = {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}  # type: ignore[arg-type]
    return kind(**own, **others)


def refuse_left(given: Mapping[str, Any]) -> None:
    """TypeError for a keyword that no object took."""
    if given:
        raise TypeError(f"unexpected keyword arguments: {', '.join(given)}")
