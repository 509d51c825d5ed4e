"""Cells of a row as texts, lists, choices and token ids; RowError in plain words where a cell is none."""

from __future__ import annotations

import json
from typing import Any, Final

from ntkcli.data.rows import RowError, what_is
from store import RowStatus

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def text_of(value: Any, where: str) -> str:
    """A string with something in it."""
    if not isinstance(value, str):
        raise RowError(f"{where} holds {what_is(value)}, not a string")
    if not value.strip():
        raise RowError(f"{where} is empty", RowStatus.EMPTY)
    return value


def listed(value: Any, column: str, of: str) -> list[Any]:
    """A list, also as JSON in a string, which is how delimited files hold one."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError(f"the column {column!r} holds {what_is(value)}, which is not a JSON list of {of}") from error
    if not isinstance(value, list):
        raise RowError(f"the column {column!r} holds {what_is(value)}, not a list of {of}")
    return value


def choices_of(value: Any) -> tuple[str, ...]:
    """The candidate answers, all different."""
    items = listed(value, "choices", "strings")
    if not items:
        raise RowError("the column 'choices' is an empty list")
    choices = tuple(text_of(item, f"choice {i} in 'choices'") for i, item in enumerate(items))
    seen: set[str] = set()
    for i, choice in enumerate(choices):
        if choice.strip() in seen:  # templates trim, so a space would not tell them apart
            raise RowError(f"choice {i} in 'choices', {what_is(choice)}, is there twice")
        seen.add(choice.strip())
    return choices


def untyped_answer(cell: Any, choices: tuple[str, ...], completion: Any) -> int:
    """As `answer_of`, of a cell that may have been a number or a string: both must mean one choice.

    Where only one of the two can be, it is that; else the row's `completion`, if it has one, decides.

    Raises:
        RowError: the number means one choice, the string another.
    """
    text = cell.strip() if isinstance(cell, str) else ""
    if not (text.isascii() and text.isdigit()) or int(text) >= len(choices):
        return answer_of(cell, choices)
    meant = {int(text), answer_of(text, choices)}
    if len(meant) > 1 and isinstance(completion, str) and completion.strip():
        meant = {index for index in meant if choices[index].strip() == completion.strip()} or meant
    if len(meant) == 1:
        return meant.pop()
    (by_text,) = meant - {int(text)}
    raise RowError(
        f"the column 'answer' holds {text}, which is the text of choice {by_text} and the index of choice {int(text)}, "
        f"{what_is(choices[int(text)])}, and a format without types can't say which is meant: give the letter "
        f"(choice {by_text} is {_LETTERS[by_text : by_text + 1] or 'beyond Z'}), a column 'completion' with the right "
        "text, or JSON Lines"
    )


def answer_of(value: Any, choices: tuple[str, ...]) -> int:
    """The index of the right choice, given as 0-based index, text, or letter; a text wins over the others.

    An index may be a string of digits, as delimited files have it.
    """
    if isinstance(value, str):
        text = value.strip()
        for i, choice in enumerate(choices):
            if text == choice.strip():
                return i
        if len(text) == 1 and text.upper() in _LETTERS[: len(choices)]:
            return _LETTERS.index(text.upper())
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else value
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < len(choices):
            return value
        raise RowError(f"the column 'answer' holds {value}, but the choices count from 0 to {len(choices) - 1}")
    raise RowError(f"the column 'answer' holds {what_is(value)}, which is not an index, letter or text of a choice")


def integers_of(value: Any, column: str) -> tuple[int, ...]:
    """A list of integers."""
    items = listed(value, column, "integers")
    for i, item in enumerate(items):
        if isinstance(item, bool) or not isinstance(item, int):
            raise RowError(f"item {i} in {column!r} is {what_is(item)}, not an integer")
    return tuple(items)
