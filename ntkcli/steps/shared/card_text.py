"""Text of any make in a card of Markdown: it stays text, whatever markup is in it."""

from __future__ import annotations

import re


def one_line(text: str) -> str:
    """The text with line breaks and control characters written out."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def code_span(text: str) -> str:
    """A code span that holds the text, whatever backticks or markup are in it."""
    plain = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    space = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{space}{plain}{space}{fence}"


def table_cell(text: str) -> str:
    """A code span inside of a table, where a bar would end the cell."""
    return code_span(text).replace("|", "\\|")
