"""Texts cut to one length in tokens, by a tokenizer that is given. Pure functions of text; knows nothing of models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ntkcli.demo.text import Text

AT_ONCE = 6
"""General texts that are joined: one alone has 10 to 80 tokens."""


def passages(texts: Iterable[Text], tokenizer: Any, *, tokens: int) -> Iterator[Text]:
    """The first `tokens` of every text that has so many. Some have one more or less when they are encoded again."""
    for row in texts:
        ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        if len(ids) >= tokens:
            yield {**row, "text": tokenizer.decode(ids[:tokens])}


def joined(texts: Sequence[Text]) -> list[Text]:
    """Several short texts as one."""
    groups = [texts[i : i + AT_ONCE] for i in range(0, len(texts), AT_ONCE)]
    return [{**group[0], "text": "\n".join(row["text"] for row in group)} for group in groups]
