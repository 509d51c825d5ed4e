"""The items of an evaluation as tokens: encoded once, for the checks before it and for every run."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

import store
from ntkcli.data import BadRow, Encoded, Encoder, Row, RowError
from ntkcli.data.encode_stream import attempt
from ntkcli.data.problems import BAD_KEPT, refusal, unusable
from ntkcli.identity import ModelIdentity
from ntkcli.steps.evaluation.items import Items

_MOST_TOKENS: Final = 1 << 26
"""Of all choices together that are kept, at five bytes each: 320 MiB. What comes after is encoded each time."""


class ItemTokens:
    """Items as tokens, each with its scorer's: its choices, its prompt, or itself."""

    def __init__(self, items: Items, encoder: Encoder) -> None:
        self.items, self.encoder = items, encoder
        self._kept: dict[int, list[Encoded] | RowError] = {}
        self._room = _MOST_TOKENS

    def of(self, index: int) -> tuple[int, list[Encoded]]:
        """The item's status, and what is computed of it; nothing if it can't be used."""
        row = self.items.rows[index]
        if isinstance(row, BadRow):
            return row.status, []
        found = self.find(index, row)
        if isinstance(found, RowError):
            return int(found.status), []
        truncated = any(one.truncated for one in found)
        return int(store.RowStatus.TRUNCATED if truncated else store.RowStatus.OK), found

    def find(self, index: int, row: Row) -> list[Encoded] | RowError:
        """What is computed of the item, or why it is refused."""
        if index not in self._kept:
            found = attempt(_encode, row, self.items.scorer(index), self.encoder)
            tokens = 0 if isinstance(found, RowError) else sum(map(len, found))
            if tokens > self._room:
                return found
            self._room -= tokens
            self._kept[index] = found
        return self._kept[index]


def encode_item(items: Items, index: int, encoder: Encoder) -> tuple[int, list[Encoded]]:
    """As `ItemTokens.of`, of a single item."""
    return ItemTokens(items, encoder).of(index)


def refuse_unusable(tokens: ItemTokens) -> None:
    """Raise DataError if items can't be encoded: the first of them with their reasons, the rest counted."""
    bad = []
    for index, row in enumerate(tokens.items.rows):
        if isinstance(row, Row) and isinstance(found := tokens.find(index, row), RowError):
            bad.append(unusable(row, found))
    if bad:
        raise refusal(bad[:BAD_KEPT], len(bad))


def refuse_long_items(tokens: ItemTokens, model: ModelIdentity, max_new_tokens: int) -> None:
    """UsageError if an item needs more positions than the model has embeddings for."""
    from ntkcli.engine.models.limits import position_limit, refuse_no_room, refuse_too_long
    from ntkcli.engine.models.loading import model_config

    if position_limit(model_config(model), tokens.encoder.max_length + max_new_tokens) is None:
        return
    for index, row in enumerate(tokens.items.rows):
        longest = max((len(one) for one in tokens.of(index)[1]), default=0)
        if isinstance(row, BadRow) or not longest:
            continue
        if tokens.items.scorer(index) == "generate":
            refuse_no_room(model, longest, max_new_tokens, row.place)
        else:
            refuse_too_long(model, longest, row.place)


def _encode(row: Row, scorer: str, encoder: Encoder) -> list[Encoded]:
    if scorer == "choices":
        return encoder.encode_choices(row)
    if scorer == "generate":
        return [encoder.encode_prompt(row)]
    whole = encoder.encode(row)
    if whole.supervised.any():
        return [whole]
    everything = np.arange(len(whole)) > 0  # a text by itself: all that something predicts
    return [replace(whole, supervised=everything)]
