"""Texts of rows as a report may hold them: short, and without characters that a page would obey or that hide."""

from __future__ import annotations

import html
import textwrap

TABLE_CHARACTERS = 600
"""Of a row's text in a table: enough to judge it, and 200 rows of it stay below a megabyte."""
HOVER_CHARACTERS = 280
HOVER_WIDTH = 64


def visible(text: str) -> str:
    """The text with control characters, marks that turn the direction of writing, and lone surrogates written out.

    Line feeds and tabs stay. (`\\x1b`, `\\u202e`: a row can't reorder the text next to it.)
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def clipped(text: str, most: int = TABLE_CHARACTERS) -> str:
    """At most `most` characters of the text, made visible; an ellipsis where it goes on."""
    return visible(text if len(text) <= most else text[: most - 1] + "…")


def plot_label(text: str, most: int = 60) -> str:
    """A name for plotly, which reads a subset of HTML in every label."""
    return html.escape(" ".join(clipped(text, most).split()), quote=False)


def hover(heading: str, text: str) -> str:
    """A heading and a row's text for plotly's hover label: wrapped, escaped, `<br>` being the only tag."""
    lines = textwrap.wrap(" ".join(clipped(text, HOVER_CHARACTERS).split()), HOVER_WIDTH)
    return "<br>".join(html.escape(line, quote=False) for line in [visible(heading), *lines])
