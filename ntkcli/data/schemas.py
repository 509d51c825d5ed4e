"""Schemas: how the columns of a row become messages. Adding one is a function and a line in SCHEMAS.

Works on one decoded row at a time; must not know files or tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ntkcli.data.rows import (
    RAW,
    Content,
    Message,
    Row,
    RowError,
    column_names,
    content_id,
    own_id,
    source_label,
)
from ntkcli.data.rows import what_is as _what_is
from store import RowStatus

ROLES: Final = ("system", "user", "assistant")
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Schema:
    """A name, the columns that a row must have, and how they are read (RowError if they can't be)."""

    name: str
    needs: tuple[str, ...]
    read: Callable[[RAW], Content]

    def fits(self, raw: RAW) -> bool:
        """Whether the row has every column needed; a null is none, as table formats fill gaps with it."""
        return all(raw.get(column) is not None for column in self.needs)


def detect(raw: RAW) -> Schema | None:
    """The first of SCHEMAS whose columns this row has, or None."""
    return next((schema for schema in SCHEMAS if schema.fits(raw)), None)


def known_schemas() -> str:
    """Each schema with the columns it needs, for messages."""
    return "; ".join(f"{schema.name} needs {_and(schema.needs)}" for schema in SCHEMAS)


def read_row(schema: Schema, raw: RAW, *, index: int, line: int) -> Row:
    """The row under `schema`. RowError, with the reason in plain words, if it doesn't follow the schema."""
    for column in schema.needs:
        if column not in raw:
            raise RowError(
                f"the column {column!r} is missing, which {schema.name} rows need; found: {column_names(raw)}"
            )
    content = schema.read(raw)
    return Row(
        index=index,
        line=line,
        row_id=own_id(raw) or content_id(content),
        source=source_label(raw),
        messages=content.messages,
        choices=content.choices,
        answer=content.answer,
        raw=raw,
    )


def _read_messages(raw: RAW) -> Content:
    """A list of {role, content}, the user first after system turns; maybe without an assistant turn."""
    value = raw["messages"]
    if not isinstance(value, list):
        raise RowError(f"the column 'messages' holds {_what_is(value)}, not a list of messages")
    if not value:
        raise RowError("the column 'messages' is an empty list", RowStatus.EMPTY)
    messages = tuple(_message(item, f"message {i} in 'messages'") for i, item in enumerate(value, start=1))
    first = next((message.role for message in messages if message.role != "system"), None)
    if first is None:
        raise RowError("the column 'messages' has system turns only, and no user turn")
    if first == "assistant":
        raise RowError("the column 'messages' starts with the assistant; the first turn must be the user's")
    return Content(messages)


def _read_completion(raw: RAW) -> Content:
    """`prompt` becomes the user's turn, `completion` the assistant's."""
    return Content(_question(raw, _text(raw["completion"], "the column 'completion'")))


def _read_choices(raw: RAW) -> Content:
    """The right choice becomes the assistant's turn; a `completion` beside it must say the same."""
    choices = _choices(raw["choices"])
    answer = _answer(raw["answer"], choices)
    completion = raw.get("completion")
    if completion is not None and _text(completion, "the column 'completion'").strip() != choices[answer].strip():
        raise RowError(
            f"the column 'completion' holds {_what_is(completion)}, but the answer is choice {answer}, "
            f"{_what_is(choices[answer])}"
        )
    return Content(_question(raw, choices[answer]), choices, answer)


# The order decides where several fit: the richer first.
SCHEMAS: Final = (
    Schema("messages", ("messages",), _read_messages),
    Schema("prompt/choices/answer", ("prompt", "choices", "answer"), _read_choices),
    Schema("prompt/completion", ("prompt", "completion"), _read_completion),
)


def _question(raw: RAW, answer: str) -> tuple[Message, ...]:
    return Message("user", _text(raw["prompt"], "the column 'prompt'")), Message("assistant", answer)


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise RowError(f"{where} is {_what_is(item)}, not an object with role and content")
    for key in ("role", "content"):
        if key not in item:
            raise RowError(f"{where} has no {key!r}; found: {column_names(item)}")
    role, content = item["role"], item["content"]
    if role not in ROLES:
        raise RowError(f"{where} has as role {_what_is(role)}; known are {', '.join(ROLES)}")
    if role == "system" and content == "":  # means something: it switches a template's own system turn off
        return Message(role, content)
    return Message(role, _text(content, f"the content of {where}"))


def _choices(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise RowError(f"the column 'choices' holds {_what_is(value)}, not a list of strings")
    if not value:
        raise RowError("the column 'choices' is an empty list")
    choices = tuple(_text(item, f"choice {i} in 'choices'") for i, item in enumerate(value))
    seen: set[str] = set()
    for i, choice in enumerate(choices):
        if choice.strip() in seen:  # templates trim, so a space would not tell them apart
            raise RowError(f"choice {i} in 'choices', {_what_is(choice)}, stands there twice")
        seen.add(choice.strip())
    return choices


def _answer(value: Any, choices: tuple[str, ...]) -> int:
    """The index of the right choice, given as 0-based index, text, or letter; a text wins over a letter."""
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < len(choices):
            return value
        raise RowError(f"the column 'answer' holds {value}, but the choices count from 0 to {len(choices) - 1}")
    if isinstance(value, str):
        text = value.strip()
        for i, choice in enumerate(choices):
            if text == choice.strip():
                return i
        if len(text) == 1 and text.upper() in _LETTERS[: len(choices)]:
            return _LETTERS.index(text.upper())
    raise RowError(f"the column 'answer' holds {_what_is(value)}, which is no index, letter or text of a choice")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{where} holds {_what_is(value)}, not a string")
    if not value.strip():
        raise RowError(f"{where} is empty", RowStatus.EMPTY)
    return value


def _and(names: tuple[str, ...]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
