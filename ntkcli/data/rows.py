"""What a data set is made of, whatever file it came from: rows, messages, and rows that can't be used.

Pure values; must not know files, schemas or tokenizers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Final

from store import RowStatus

RAW = dict[str, Any]  # one row as the file has it


class Untyped(dict[str, Any]):
    """A row of a format whose cells are all text: `1` may have been a number or a string, and an empty one nothing."""


_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Canonical JSON (docs/store-format.md) of lists of texts and integers, in half the time that any JSON takes."""
_CONTENT_ID_DIGITS: Final = 16  # 64 bits: two of 10^7 rows meet with probability 3e-6
_SHOWN_CHARACTERS: Final = 40  # of a value or a name in a message, so that the message stays one readable line
_SHOWN_COLUMNS: Final = 12


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: `role` is "system", "user", "assistant" or "tool".

    `learned`: False for an assistant's turn that the row marks as not to be trained on. `reasoning` is the thought
    before an assistant's answer, `calls` are its tool calls as JSON (`ntkcli.data.tools`); `name` and `call_id` say
    what a tool's result belongs to.
    """

    role: str
    content: str
    learned: bool = True
    reasoning: str = ""
    calls: str = ""
    name: str = ""
    call_id: str = ""

    @property
    def text(self) -> str:
        """Everything that the turn says: thought, content and calls, a line each."""
        return "\n".join(part for part in (self.reasoning, self.content, self.calls) if part)


@dataclass(frozen=True, slots=True)
class Content:
    """What a schema reads out of a row: the part that a model sees, and a digest is made of.

    `choices` are the candidate answers and `answer` is the index of the right one; the last message is then
    `choices[answer]`. The first `context` messages are never supervised. A row that comes as `tokens` has no
    messages; its `labels`, as many, are -100 where a token is not supervised, else the token. `tools` are the
    functions that the assistant may call, as a JSON list (`ntkcli.data.tools`), "" for none.
    """

    messages: tuple[Message, ...]
    choices: tuple[str, ...] = ()
    answer: int | None = None
    context: int = 0
    tokens: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    tools: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row that can be used.

    `index` is its 0-based position in the data set (bad rows count), `line` its 1-based line in `file`
    (blank lines count), or its number in a format without lines, as `unit` says. `source` is "" when the row
    has no label. `raw` is the row as the file has it, for exports. The others are as in `Content`.
    """

    index: int
    line: int
    row_id: str
    source: str
    messages: tuple[Message, ...]
    choices: tuple[str, ...] = ()
    answer: int | None = None
    raw: RAW = field(default_factory=dict)
    context: int = 0
    tokens: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    tools: str = ""
    file: str = ""
    unit: str = "line"

    @property
    def place(self) -> str:
        """ "FILE line 17", for messages."""
        return f"{self.file} {self.unit} {self.line}"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be used, and why. It keeps its index; `digest` is that of the line's bytes."""

    index: int
    line: int
    reason: str
    status: int
    digest: str = ""
    file: str = ""
    unit: str = "line"

    @property
    def place(self) -> str:
        """ "FILE line 17", for messages."""
        return f"{self.file} {self.unit} {self.line}"


class RowError(Exception):
    """A row can't be used: the `reason` names the column and what was found; `status` is the store's."""

    def __init__(self, reason: str, status: RowStatus = RowStatus.UNREADABLE) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


def own_id(raw: RAW) -> str | None:
    """The row's own id (`id`, else `row_id`), or None. RowError if it is not a string or integer."""
    for column in ("id", "row_id"):
        value = raw.get(column)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RowError(f"the column {column!r} holds {what_is(value)}, not a string or an integer")
        return str(value)
    return None


def source_label(raw: RAW, *, content: tuple[str, ...] = ()) -> str:
    """The first of the columns `source`, `dataset`, `task` that holds a label, else "".

    A label is a string or an integer; other values are passed over, because many sets keep an object under
    `task`, also as the JSON that a format of text has for it. So are columns that are the row's `content`, as `source`
    is in CoT Collection.
    """
    for column in ("source", "dataset", "task"):
        value = None if column in content else raw.get(column)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            continue
        if not (isinstance(raw, Untyped) and _is_json(str(value))):
            return str(value)
    return ""


def _is_json(text: str) -> bool:
    """Whether a cell is a JSON object or list."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def content_id(content: Content) -> str:
    """16 hex digits that depend on nothing but what the model sees: the id of a row that brings none."""
    return hashlib.sha256(_canonical(content)).hexdigest()[:_CONTENT_ID_DIGITS]


def content_digest(row: Row) -> str:
    """64 hex digits that depend on nothing but what the model sees of the row: not on its id or label."""
    return hashlib.sha256(_ENCODE(_plain(row)).encode()).hexdigest()


def canonical_row(row: Row) -> bytes:
    """The row as canonical JSON, the same for every file format, column name and key order."""
    return _ENCODE([row.row_id, row.source, *_plain(row)]).encode()


def what_is(value: object) -> str:
    """A JSON value in words, such as "the number 3", for messages; always one short line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {shown(repr(value))}"
    if isinstance(value, str):
        return f"the string {shown(repr(value))}"
    return "a list" if isinstance(value, list) else "an object"


def column_names(raw: RAW) -> str:
    """The columns for messages: "id, prompt"; long lists are cut, control characters escaped."""
    names = [shown(name if name.isprintable() else repr(name)) for name in list(raw)[:_SHOWN_COLUMNS]]
    return ", ".join([*names, "..."] if len(raw) > _SHOWN_COLUMNS else names) or "none"


def shown(text: str) -> str:
    """The text, cut to what a message of one line has room for."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def _plain(content: Content | Row) -> list[Any]:
    """Lists of texts and integers. Rows without what came later keep the digest that they had before there was such."""
    plain: list[Any] = [[_plain_turn(message) for message in content.messages], list(content.choices), content.answer]
    if content.context or content.tokens or content.tools:
        plain += [content.context, list(content.tokens), list(content.labels)]
    return [*plain, content.tools] if content.tools else plain


def _plain_turn(message: Message) -> list[Any]:
    later = [
        0 if message.learned else 1,
        message.reasoning,
        message.calls,
        message.name,
        message.call_id,
    ]
    return [message.role, message.content, *(later if any(later) else [])]


def _canonical(content: Content) -> bytes:
    return _ENCODE(_plain(content)).encode()
