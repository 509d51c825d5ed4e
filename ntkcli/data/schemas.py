"""Schemas: how the columns of a row become messages. Adding one is a function and a line in SCHEMAS.

Works on one decoded row at a time; must not know files or tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from ntkcli.data.columns import renamed
from ntkcli.data.conversations import is_message_list, read_conversations, read_message_lists, read_messages
from ntkcli.data.rows import (
    RAW,
    Content,
    Message,
    Row,
    RowError,
    Untyped,
    column_names,
    content_id,
    own_id,
    source_label,
    what_is,
)
from ntkcli.data.values import answer_of, choices_of, integers_of, listed, text_of, untyped_answer
from store import RowStatus

UNSUPERVISED: Final = -100
"""The label of a token that isn't supervised, by the convention of torch's cross entropy."""
RESULT: Final = "\nSo the answer is "
"""Between rationale and target of a chain of thought."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A name, the columns that a row must have, how they are read (RowError if they can't be), and others it uses."""

    name: str
    needs: tuple[str, ...]
    read: Callable[[RAW], Content]
    uses: tuple[str, ...] = ()

    def fits(self, raw: RAW) -> bool:
        """Whether the row has every column needed; a null is none, as table formats fill gaps with it."""
        return all(raw.get(column) is not None for column in self.needs)


def detect(raw: RAW, columns: Mapping[str, str] | None = None) -> Schema | None:
    """The first of SCHEMAS whose columns this row has, and that uses every one of the mapped `columns`; or None."""
    row = renamed(raw, columns or {})
    mapped = set(columns or ()) - set(COMMON)
    return next((s for s in SCHEMAS if mapped <= {*s.needs, *s.uses} and s.fits(row)), None)


def known_schemas() -> str:
    """Each schema with the columns it needs, for messages."""
    return "; ".join(f"{schema.name} needs {_and(schema.needs)}" for schema in SCHEMAS)


def read_row(
    schema: Schema,
    raw: RAW,
    *,
    index: int,
    line: int,
    columns: Mapping[str, str] | None = None,
    file: str = "",
    unit: str = "line",
) -> Row:
    """The row under `schema`. RowError, with the reason in plain words, if it doesn't follow the schema."""
    columns = columns or {}
    row = renamed(raw, columns)
    for column in schema.needs:
        if column not in row:
            told = f"{column!r}" if column not in columns else f"{columns[column]!r} ({column})"
            raise RowError(f"the column {told} is missing, which {schema.name} rows need; found: {column_names(raw)}")
    content = schema.read(row)
    return Row(
        index=index,
        line=line,
        row_id=own_id(row) or content_id(content),
        source=source_label(row, content=schema.needs),
        messages=content.messages,
        choices=content.choices,
        answer=content.answer,
        raw=raw,
        context=content.context,
        tokens=content.tokens,
        labels=content.labels,
        tools=content.tools,
        file=file,
        unit=unit,
    )


def _read_choices(raw: RAW, *, prompt: str) -> Content:
    """The right choice becomes the assistant's turn; a `completion` beside it must say the same."""
    choices = choices_of(raw["choices"])
    completion = raw.get("completion")
    if isinstance(raw, Untyped):
        completion = completion or None  # an empty cell is none
        answer = untyped_answer(raw["answer"], choices, completion)
    else:
        answer = answer_of(raw["answer"], choices)
    if completion is not None and text_of(completion, "the column 'completion'").strip() != choices[answer].strip():
        raise RowError(
            f"the column 'completion' holds {what_is(completion)}, but the answer is choice {answer}, "
            f"{what_is(choices[answer])}"
        )
    return Content(_exchange(raw[prompt], choices[answer], prompt), choices, answer)


def _read_pair(raw: RAW, *, prompt: str, completion: str) -> Content:
    """The one column becomes the user's turn, the other the assistant's."""
    return Content(_exchange(raw[prompt], text_of(raw[completion], f"the column {completion!r}"), prompt))


def _read_completion(raw: RAW) -> Content:
    """`prompt` and `completion`, both texts or both lists of messages."""
    if isinstance(raw["prompt"], list) and isinstance(raw["completion"], list):
        return read_message_lists(raw)
    if isinstance(raw, Untyped) and is_message_list(raw["prompt"]) and is_message_list(raw["completion"]):
        raise RowError(
            "the columns 'prompt' and 'completion' hold lists of messages as text, and a format without types can't "
            "say whether they are meant as such: give JSON Lines or parquet, or one column 'messages'"
        )
    return _read_pair(raw, prompt="prompt", completion="completion")


def _read_alpaca(raw: RAW) -> Content:
    """Instruction and below it `input`, as LLaMA-Factory joins them; `system`; `history` as pairs before it."""
    instruction, given = text_of(raw["instruction"], "the column 'instruction'"), raw.get("input")
    if given is not None and given != "":
        instruction += "\n" + text_of(given, "the column 'input'")
    turns: list[Message] = []
    system, history = raw.get("system"), raw.get("history")
    if system is not None and system != "":
        turns.append(Message("system", text_of(system, "the column 'system'")))
    for i, pair in enumerate(listed(history, "history", "pairs") if history not in (None, "") else [], start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError(f"item {i} in 'history' is {what_is(pair)}, not a pair of texts")
        turns += _exchange(pair[0], text_of(pair[1], f"item {i} in 'history'"), "history")
    return Content((*turns, *_exchange(instruction, text_of(raw["output"], "the column 'output'"), "instruction")))


def _read_rationale(raw: RAW) -> Content:
    """CoT Collection: the answer is the rationale, and behind it the target."""
    rationale = text_of(raw["rationale"], "the column 'rationale'").rstrip()
    target = text_of(raw["target"], "the column 'target'").strip()
    return Content(_exchange(raw["source"], f"{rationale}{RESULT}{target}", "source"))


def _read_text(raw: RAW) -> Content:
    """A text by itself becomes a user's turn: a row without an answer, of which all positions count."""
    return Content((Message("user", text_of(raw["text"], "the column 'text'")),))


def _read_tokens(raw: RAW) -> Content:
    """Token ids as they are, with labels that repeat the supervised ones."""
    tokens, labels = integers_of(raw["input_ids"], "input_ids"), integers_of(raw["labels"], "labels")
    if len(tokens) < 2:
        raise RowError(f"the column 'input_ids' has {len(tokens)} tokens: nothing to predict", RowStatus.EMPTY)
    if len(labels) != len(tokens):
        raise RowError(f"the column 'labels' has {len(labels)} items, and 'input_ids' has {len(tokens)}")
    for i, (token, label) in enumerate(zip(tokens, labels, strict=True)):
        if label not in (UNSUPERVISED, token):
            raise RowError(f"item {i} in 'labels' is {label}, not {UNSUPERVISED} or the token {token}")
    return Content((), tokens=tokens, labels=labels)


COMMON: Final = ("id", "row_id", "source", "dataset", "task")
"""Columns that any row may have: its id and its label."""

# The order decides where several fit: the richer first.
SCHEMAS: Final = (
    Schema("messages", ("messages",), read_messages, ("tools", "functions")),
    Schema(
        "prompt/choices/answer",
        ("prompt", "choices", "answer"),
        partial(_read_choices, prompt="prompt"),
        ("completion",),
    ),
    Schema("prompt/completion", ("prompt", "completion"), _read_completion, ("tools", "functions")),
    Schema("conversations", ("conversations",), read_conversations, ("system", "tools", "functions")),
    Schema("question/choices/answer", ("question", "choices", "answer"), partial(_read_choices, prompt="question")),
    Schema("instruction/output", ("instruction", "output"), _read_alpaca, ("input", "system", "history")),
    Schema("source/rationale/target", ("source", "rationale", "target"), _read_rationale),
    Schema("question/answer", ("question", "answer"), partial(_read_pair, prompt="question", completion="answer")),
    Schema("input_ids/labels", ("input_ids", "labels"), _read_tokens),
    Schema("text", ("text",), _read_text),
)


def known_columns() -> set[str]:
    """Every column that a schema or a row's id and label is read from."""
    return {*COMMON, *(column for schema in SCHEMAS for column in (*schema.needs, *schema.uses))}


def _exchange(prompt: Any, answer: str, column: str) -> tuple[Message, ...]:
    return Message("user", text_of(prompt, f"the column {column!r}")), Message("assistant", answer)


def _and(names: tuple[str, ...]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
