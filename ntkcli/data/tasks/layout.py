"""One layout of a task's rows: how their columns become a prompt, its choices and the right one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ntkcli.data.rows import RAW, RowError, shown, what_is
from ntkcli.data.tasks.template import Template, cell, cell_text, has_cell
from ntkcli.data.values import listed
from store import RowStatus

KEYS: Final = (
    "prompt",
    "choices",
    "split",
    "skip",
    "answer",
    "until",
    "first",
    "labels",
    "begins",
    "contains",
    "thresholds",
)
"""What a `[[layout]]` may hold, with `id` and `source`."""
WAYS: Final = ("first", "labels", "begins", "contains", "thresholds")
"""How the answer's column says which choice is right: one of these."""
_TEXTS: Final = ("prompt", "answer", "split", "until", "id", "source")
_NUMBER: Final = re.compile(r"-?\d{1,9}")
"""The number of a choice, as text."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Templates and the way to the answer; ValueError from `Layout.of` if they make no sense."""

    prompt: Template
    choices: tuple[Template, ...] | str
    split: str | None
    skip: int
    answer: str
    until: str | None
    way: str
    key: Any
    id: str | None
    source: str | None

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Layout:
        """The layout that a table of a task file describes."""
        if unknown := sorted(set(table) - {*KEYS, "id", "source"}):
            raise ValueError(f"the key {unknown[0]!r} is not known")
        if missing := [key for key in ("prompt", "choices", "answer") if key not in table]:
            raise ValueError(f"there is no {missing[0]}")
        ways = [way for way in WAYS if way in table]
        if len(ways) != 1:
            raise ValueError(f"it needs one of {', '.join(WAYS)} and has {', '.join(ways) or 'none'}")
        if wrong := next((key for key in _TEXTS if key in table and not isinstance(table[key], str)), None):
            raise ValueError(f"{wrong} is not text")
        skip = table.get("skip", 0)
        if not isinstance(skip, int) or isinstance(skip, bool) or skip < 0:
            raise ValueError("skip is not a number of characters")
        choices = table["choices"]
        texts = isinstance(choices, list) and len(choices) > 1 and all(isinstance(text, str) for text in choices)
        if not texts and not isinstance(choices, str):
            raise ValueError("choices is neither a list of texts nor the name of a column")
        layout = cls(
            prompt=Template(table["prompt"]),
            choices=tuple(Template(text) for text in choices) if texts else choices,
            split=table.get("split"),
            skip=skip,
            answer=table["answer"],
            until=table.get("until"),
            way=ways[0],
            key=table[ways[0]],
            id=table.get("id"),
            source=table.get("source"),
        )
        layout._check_key()
        return layout

    @property
    def columns(self) -> list[str]:
        """The columns that a row of this layout has."""
        choices = [self.choices] if isinstance(self.choices, str) else [c for t in self.choices for c in t.columns]
        return list(dict.fromkeys([*self.prompt.columns, *choices, self.answer]))

    def fits(self, raw: RAW) -> bool:
        """Whether the row has all of them."""
        return all(has_cell(raw, column) for column in self.columns)

    def row(self, raw: RAW) -> RAW:
        """The row as prompt, choices and answer (and id, source). RowError if a cell can't be used."""
        choices = self._choices(raw)
        answer = self._answer(raw)
        if not 0 <= answer < len(choices):
            raise RowError(
                f"the column {self.answer!r} holds {what_is(cell(raw, self.answer))}, which is not one of the "
                f"{len(choices)} choices{f' counted from {self.key}' if self.way == 'first' else ''}"
            )
        found: RAW = {"prompt": self.prompt.fill(raw), "choices": choices, "answer": answer}
        if self.id is not None and has_cell(raw, self.id):
            found = {"id": cell_text(raw, self.id), **found}
        if self.source is not None and has_cell(raw, self.source):
            found["source"] = cell_text(raw, self.source)
        return found

    def _choices(self, raw: RAW) -> list[str]:
        if not isinstance(self.choices, str):
            return [template.fill(raw) for template in self.choices]
        value = cell(raw, self.choices)
        if self.split and isinstance(value, str):
            texts = [text for text in value.split(self.split) if text.strip()]
        else:
            texts = self._listed_choices(value)
        return [text[self.skip :].strip() for text in texts]

    def _listed_choices(self, value: Any) -> list[str]:
        """The items of a list without empty ones at its end, which tables are filled up with.

        RowError for an empty one before another: without it the answer's number would mean the next choice.
        """
        items = ["" if item is None else item for item in listed(value, str(self.choices), "texts")]
        for i, item in enumerate(items):
            if isinstance(item, bool) or not isinstance(item, str | int | float):
                raise RowError(f"item {i} in {self.choices!r} is {what_is(item)}, not a text or a number")
        texts = [str(item) for item in items]
        while texts and not texts[-1].strip():
            texts.pop()
        if empty := next((i for i, text in enumerate(texts, start=1) if not text.strip()), None):
            raise RowError(f"item {empty - 1} in {self.choices!r} is empty", RowStatus.EMPTY)
        return texts

    def _answer(self, raw: RAW) -> int:
        """The index of the right choice by the layout's way, -1 if the cell says none."""
        if self.way == "thresholds":
            return self._by_threshold(cell(raw, self.answer))
        text = cell_text(raw, self.answer)
        if self.until:
            text = text.partition(self.until)[0].strip()
        if self.way == "first":
            return int(text) - int(self.key) if _NUMBER.fullmatch(text) else -1
        folded = text.casefold()
        if self.way == "labels":
            return next((int(index) for label, index in self.key.items() if folded == label.casefold()), -1)
        found = folded.startswith if self.way == "begins" else folded.__contains__
        return next((int(index) for label, index in self.key if found(label.casefold())), -1)

    def _by_threshold(self, value: Any) -> int:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isnan(number):
            raise RowError(f"the column {shown(repr(self.answer))} holds {what_is(value)}, not a number")
        low, high = self.key
        return 0 if number < low else 2 if number > high else 1

    def _check_key(self) -> None:
        key = self.key
        if self.way == "first":
            good = isinstance(key, int) and not isinstance(key, bool)
        elif self.way == "labels":
            good = isinstance(key, dict) and all(isinstance(index, int) for index in key.values())
        elif self.way == "thresholds":
            good = isinstance(key, list) and len(key) == 2 and all(isinstance(number, int | float) for number in key)
        else:
            good = isinstance(key, list) and all(
                isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], int)
                for pair in key
            )
        if not good:
            forms = {"first": "a whole number", "labels": "a table LABEL = INDEX", "thresholds": "two numbers"}
            raise ValueError(f"{self.way} is not {forms.get(self.way, 'a list of [TEXT, INDEX]')}")
