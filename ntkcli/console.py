"""What a person or a script sees: results on stdout, everything else on stderr.

With `--json` the result is one JSON object. Progress is a bar with an ETA on a terminal and plain lines elsewhere. Text
from data sets is escaped, so that it can't draw or colour anything.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from shlex import quote
from typing import TYPE_CHECKING, Any, ClassVar

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ntkcli.finite import to_json
from ntkcli.progress import Progress as Shown
from ntkcli.progress import Silent

if TYPE_CHECKING:
    from ntkcli.steps.shared.pool_rows import PoolRow

LINE_SECONDS = 15
"""Between plain progress lines, where stderr is not a terminal: a log of hours stays readable."""

FILE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe, where nothing wraps."""

PICTURE_WIDTH = 72
"""Columns of a terminal below which a histogram of 40 bins between two numbers would wrap."""

LABEL_WIDTH, BAR_WIDTH, RATE_WIDTH, NOTE_WIDTH = 16, 8, 17, 12
"""Columns of the parts of a progress bar, at least; a part that does not fit is left out."""

BLOCKS = " ▁▂▃▄▅▆▇█"
"""From nothing to the whole height of a line."""

TEXT_WIDTH = 80
"""Characters of a row's text that a table shows; `--json` has all."""
_MARK = "bold green"
_SHADES = ((0.5, "bold reverse"), (0.15, "bold"), (0.03, ""))
"""Share of the largest weight, and how a piece from there on is shown; below the last it has no colour."""


class Output:
    """Where one command's result and notes go. `progress` shows how far it is."""

    _hints: ClassVar[bool] = True
    _collector: ClassVar[list[Any] | None] = None  # of the next one that is made

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.as_json, self.quiet, self.verbose = as_json, quiet, verbose
        self._out = Console(highlight=False, soft_wrap=True)
        if not self._out.is_terminal:
            self._out.width = FILE_WIDTH
        self._err = Console(stderr=True, highlight=False, soft_wrap=True)
        self.progress = Reporter(self._err, quiet=quiet)
        self._collected, Output._collector = Output._collector, None

    def result(self, value: Any, *, line: str) -> None:
        """The result: `line` for people, or the dataclass `value` as one JSON object."""
        if self._collected is not None:
            self._collected.append(value)
        elif self.as_json:
            self._out.file.write(to_json(value) + "\n")
        else:
            self._out.print(escape(visible(line)))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table on stdout; the first column is left-aligned, the others right.

        On a terminal that is too narrow for its words each row is a name with a line for each of its values.
        """
        columns, cells = list(map(visible, columns)), [[visible(cell) for cell in row] for row in rows]
        widths = _widths(columns, cells, self._out.width)
        if widths is None and self._out.is_terminal:
            self._records(visible(title), columns, cells)
            return
        table = Table(title=escape(visible(title)), title_justify="left", box=None, header_style="bold", pad_edge=False)
        for i, column in enumerate(columns):
            width = None if widths is None else widths[i]
            table.add_column(escape(column), justify="left" if i == 0 else "right", overflow="fold", width=width)
        for row in cells:
            table.add_row(*map(escape, row))
        self._out.print(table)

    def _records(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if title:
            self._out.print(f"[italic]{escape(title)}[/italic]")
        for name, *values in rows:
            self._out.print(f"[bold]{escape(name)}[/bold]")
            for column, value in zip(columns[1:], values, strict=True):
                if value:
                    self._out.print(f"  {escape(column)}: {escape(value)}")

    def pool_rows(self, title: str, measure: str, rows: Sequence[PoolRow]) -> None:
        """A table of a pool's rows, the text of each on one line, cut where it is long."""
        cells = []
        for each in rows:
            text = " ".join(each.text.split())
            text = text if len(text) <= TEXT_WIDTH else f"{text[:TEXT_WIDTH]}…"
            cells.append([each.row_id, str(each.rank), f"{each.value:.6g}", each.source, text])
        self.table(title, ["row", "rank", measure, "source", "text"], cells)

    def say(self, text: str) -> None:
        """A line of the result, for people."""
        self._out.print(escape(visible(text)))

    @property
    def draws(self) -> bool:
        """Whether small pictures are shown: on a terminal that is wide enough and has the characters."""
        if self.as_json or self.quiet or not self._out.is_terminal or self._out.width < PICTURE_WIDTH:
            return False
        try:
            BLOCKS.encode(self._out.encoding)
        except (LookupError, UnicodeEncodeError):
            return False
        return True

    def histogram(self, label: str, counts: Sequence[int], low: str, high: str) -> None:
        """A line of blocks between two numbers, each as high as its count; nothing where `draws` is false."""
        if not self.draws or not counts:
            return
        top = max(*counts, 1)
        heights = [0 if count == 0 else max(1, round(count / top * (len(BLOCKS) - 1))) for count in counts]
        text = Text(f"{visible(label)}  {visible(low)} ")
        text.append("".join(BLOCKS[height] for height in heights), "cyan")
        text.append(f" {visible(high)}")
        text.no_wrap, text.overflow = True, "crop"
        self._out.print(text)

    def marked(self, pieces: Sequence[tuple[str, bool]]) -> None:
        """Text of a data set, the pieces that are marked in colour; without a terminal between ⟦ and ⟧."""
        text = Text()
        for piece, is_marked in pieces:
            plain = visible(piece)
            text.append(plain if self._out.is_terminal or not is_marked else f"⟦{plain}⟧", _MARK if is_marked else None)
        self._out.print(text)

    def shaded(self, pieces: Sequence[tuple[str, float]]) -> None:
        """Text of a data set on a terminal, each piece in a colour by its weight: above 0 green, below red.

        Weights count by their share of the largest one. Without a terminal there is no colour, and nothing is shown.
        """
        if not self._out.is_terminal:
            return
        largest = max((abs(weight) for _, weight in pieces), default=0.0) or 1.0
        text = Text()
        for piece, weight in pieces:
            text.append(visible(piece), _shade(weight / largest))
        self._out.print(text)

    def next_step(self, command: str, **words: object) -> None:
        """The command that usually comes next, on stderr, with `words`, quoted for a shell, in place of their names in
        braces.
        """
        if self._hints and not self.quiet and not self.as_json:
            said = command.format(**{name: quote(str(word)) for name, word in words.items()}) if words else command
            self._err.print(f"[dim]next:[/dim] {escape(visible(said))}")

    @property
    def alone(self) -> bool:
        """Whether this command was given by itself, and is not one of several in a row."""
        return self._hints

    def details(self, lines: Sequence[str]) -> None:
        """What belongs to the error that comes next, a line each on stderr; a file or a row may stand in it."""
        Reporter.stop_live()
        for line in lines:
            self._err.print(f"  {escape(visible(' '.join(line.split())))}")

    @classmethod
    @contextmanager
    def without_hints(cls) -> Iterator[None]:
        """No `next_step` within: of several commands in a row each has its next one."""
        before, cls._hints = cls._hints, False
        try:
            yield
        finally:
            cls._hints = before

    @classmethod
    @contextmanager
    def collecting(cls) -> Iterator[list[Any]]:
        """The results of the one command that runs within, as objects; nothing of them is written to stdout."""
        found: list[Any] = []
        cls._collector = found
        try:
            yield found
        finally:
            cls._collector = None

    def error(self, text: str) -> None:
        """One line on stderr that begins with `error:`."""
        Reporter.stop_live()
        self._err.print(f"[bold red]error:[/bold red] {escape(visible(' '.join(text.split())))}")

    def traceback(self) -> None:
        """The whole traceback of the error at hand, on stderr."""
        self._err.print_exception()


class Reporter:
    """The `ntkcli.progress.Progress` of the console: a bar on a terminal, else a line every 15 seconds."""

    _live: ClassVar[Reporter | None] = None  # a terminal has room for one bar, and a log for one task

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console, self._quiet = console, quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._label, self._unit = "", ""
        self._total = self._done = self._found = self._tokens = 0
        self._began = self._shown = 0.0

    def start(self, label: str, *, total: int, unit: str, done: int = 0) -> None:
        """Begin a bar in place of any other; work that was already done is reported and counted."""
        Reporter.stop_live()
        Reporter._live = self
        self._label, self._unit, self._total, self._done = label, unit, total, done
        self._found, self._tokens = done, 0
        self._began = self._shown = time.monotonic()
        if done:
            self.note(f"{label}: found {done} of {total} {unit} done, continuing from there")
        if self._quiet or not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        label, columns = _fitted(label, f"{total}/{total} {unit}", self._console)
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._task = self._bar.add_task(escape(label), total=total, completed=done, unit=unit, rate="", note="")
        self._bar.start()

    def advance(self, count: int, *, tokens: int = 0, note: str = "") -> None:
        """Count work that is done."""
        self._done += count
        self._tokens += tokens
        now = time.monotonic()
        if Reporter._live is not self:
            return  # another bar has taken its place
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=count, rate=self._rate(now), note=escape(note))
        elif not self._quiet and now - self._shown >= LINE_SECONDS:
            self._shown = now
            eta = (now - self._began) / max(1, self._done - self._found) * (self._total - self._done)
            parts = [
                f"{self._label}: {self._done}/{self._total} {self._unit}",
                self._rate(now),
                note,
                f"ETA {eta:.0f} s",
            ]
            self.note(", ".join(part for part in parts if part))

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        if Reporter._live is self:
            Reporter._live = None
        self._bar = self._task = None

    def below(self) -> Shown:
        """For work below any step: a reporter of its own, or silence while another one reports."""
        return Silent() if Reporter._live is not None else Reporter(self._console, quiet=self._quiet)

    @classmethod
    def stop_live(cls) -> None:
        """Take away the bar of whatever command was broken off, so that the terminal is left whole."""
        if cls._live is not None:
            cls._live.stop()

    def note(self, text: str) -> None:
        """One line, unless `-q`."""
        if not self._quiet:
            self._console.print(escape(visible(text)))

    def _rate(self, now: float) -> str:
        return f"{self._tokens / max(1e-9, now - self._began):,.0f} tokens/s" if self._tokens else ""


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """The widths of a table's columns in which no word is broken, wide ones wrapped; None where there are none."""
    whole = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
    widths = [max(map(cell_len, " ".join(column).split()), default=0) for column in zip(columns, *rows, strict=True)]
    spare = room - sum(widths) - 2 * (len(widths) - 1)
    if spare < 0:
        return None
    for i in sorted(range(len(widths)), key=lambda i: whole[i] - widths[i]):
        more = min(spare, whole[i] - widths[i])
        widths[i] += more
        spare -= more
    return widths


def _fitted(label: str, counts: str, console: Console) -> tuple[str, list[ProgressColumn]]:
    """The label and the columns of a bar on one line: what a narrow terminal has no room for goes, but not the ETA."""
    spinner = SpinnerColumn("dots" if console.encoding.lower().startswith("utf") else "line")
    done = TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}")
    room = console.width - len("⠋  ETA 0:00:00")
    if room < len(counts) + 1 + min(len(label), LABEL_WIDTH):
        done, counts = TextColumn("{task.percentage:.0f}%"), "100%"
    room -= len(counts) + 1
    label = visible(label)
    label = label if len(label) <= room else f"{label[: max(0, room - 1)]}…"
    room -= len(label)
    found = []
    for name, width in (("bar", BAR_WIDTH), ("rate", RATE_WIDTH), ("note", NOTE_WIDTH)):
        if room > width:
            room -= width + 1
            found.append(name)
    columns = [spinner, TextColumn("{task.description}")]
    columns += [BarColumn(min(40, BAR_WIDTH + max(0, room)))] if "bar" in found else []
    columns += [done, *([TextColumn("{task.fields[rate]}")] if "rate" in found else [])]
    columns += [TextColumn("ETA"), TimeRemainingColumn()]
    return label, columns + ([TextColumn("{task.fields[note]}")] if "note" in found else [])


class ThisThread:
    """A stream for the thread that makes it; what other threads write to it, as Ray's do, goes to stderr."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream if threading.get_ident() == self._thread else sys.stderr, name)


def _shade(share: float) -> str:
    """The style of a piece whose weight is this share of the largest, from -1 to 1."""
    style = next((style for least, style in _SHADES if abs(share) >= least), None)
    return "" if style is None else f"{style} {'green' if share > 0 else 'red'}".strip()


def print_anything() -> None:
    """Let stdout and stderr write out what their encoding lacks (`\\u2726`) instead of raising UnicodeEncodeError.

    So with PYTHONIOENCODING=ascii, and for file names that are not UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def visible(text: str) -> str:
    """The text with all that a terminal would obey, or that hides, written out: `\\x1b`; line feeds and tabs stay."""
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)
    )
