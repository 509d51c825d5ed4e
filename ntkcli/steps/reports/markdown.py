"""The same facts as Markdown: sentences and tables, no pictures. Texts of rows are escaped and stay on one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ntkcli.steps.reports.blocks import (
    Block,
    Commands,
    Notice,
    Panels,
    Paragraph,
    Plot,
    Section,
    Stats,
    Table,
    shown,
)
from ntkcli.steps.reports.page import About
from ntkcli.steps.reports.texts import visible

_SPECIAL = re.compile(r"([\\`*_\[\]|~>#]|^[-+=]|:(?=//))")
_ESCAPES = {"&": "&amp;", "<": "&lt;"}


def write(about: About, sections: Sequence[Section], damaged: Sequence[tuple[str, str]], repair: str) -> str:
    """The whole page as text."""
    lines = [f"<!-- {about.mark}: {about.made_by} -->", f"# Report of {plain(about.store)}", ""]
    lines += [f"{about.made_by}, {about.when}", ""]
    if damaged:
        lines += ["**Damaged, and left out:**", ""]
        lines += [f"- {plain(name)}: {plain(what)}" for name, what in damaged]
        lines += ["", f"Repair: {_code(repair)}", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += [*_block(block), ""]
    return "\n".join(lines).rstrip() + "\n"


def plain(text: str) -> str:
    """Text on one line in which Markdown and HTML find nothing to obey."""
    line = " ".join(visible(text).split())
    return "".join(_ESCAPES.get(char, char) for char in _SPECIAL.sub(r"\\\1", line))


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph(text):
            yield plain(text)
        case Notice(kind, text, command):
            yield f"*{kind}:* {plain(text)}" + (f" Run {_code(command)}" if command else "")
        case Stats(items):
            yield from (
                f"- {plain(one.label)}: **{plain(one.value)}**" + (f" ({plain(one.remark)})" if one.remark else "")
                for one in items
            )
        case Table():
            yield from _table(block)
        case Plot():
            yield f"### {plain(block.title)}"
            yield ""
            yield plain(block.summary)
            if block.table is not None:
                yield ""
                yield from _table(block.table)
        case Panels(items):
            for panel in items:
                yield f"- {plain(panel.title)}: {plain(panel.text)}"
                yield from (f"    - {value:.3f} {plain(name)}: {plain(text)}" for name, value, text in panel.nearest)
        case Commands(lines):
            yield from (f"    {' '.join(visible(line).split())}" for line in lines)


def _table(table: Table) -> Iterator[str]:
    yield "| " + " | ".join(plain(column.name) for column in table.columns) + " |"
    yield "|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|"
    for row in table.rows:
        cells = (plain(shown(value, column)) for value, column in zip(row, table.columns, strict=True))
        yield "| " + " | ".join(cells) + " |"


def _code(line: str) -> str:
    """A command in backticks; one that holds some gets longer ones around it."""
    said = " ".join(visible(line).split())
    longest = max((len(run) for run in re.findall("`+", said)), default=0)
    ticks = "`" * (longest + 1)
    return f"{ticks} {said} {ticks}" if longest else f"`{said}`"
