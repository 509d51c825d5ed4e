"""Tables on a terminal: no word of one is ever broken, however narrow it is."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ntkcli.console import Output

COLUMNS = ["artefact", "rows", "state", "made from"]
HOSTILE = "yes\x1b[31m\u202e[bold]"
ROWS = [
    ["features/domain/embed", "12/12", "complete", "datasets/domain, runs/warmup"],
    ["scores/[both]\x1b", "480/480", "complete", ""],
]


def printed(width: int, *, terminal: bool = True) -> str:
    output = Output()
    output._out = Console(
        file=io.StringIO(), width=width, force_terminal=terminal, highlight=False, soft_wrap=True,
        _environ={"TERM": "xterm", "COLUMNS": ""},
    )  # fmt: skip
    output.table("a store", COLUMNS, ROWS)
    return re.sub(r"\x1b\[[0-9;]*m", "", output._out.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_words_stay_whole(width: int) -> None:
    shown = printed(width)
    for row in ROWS:
        for cell in row:
            for word in cell.replace("\x1b", r"\x1b").split():
                assert word in shown
    assert "a store" in shown
    assert ("  state: complete" in shown) == (width < 60)
    assert ("made from:" in shown) == (width < 60)


def test_a_narrow_terminal_gets_a_line_for_each_value() -> None:
    assert printed(30).splitlines() == [
        "a store", "features/domain/embed", "  rows: 12/12", "  state: complete",
        "  made from: datasets/domain, runs/warmup", r"scores/[both]\x1b", "  rows: 480/480", "  state: complete",
    ]  # fmt: skip


def test_a_file_always_gets_the_table() -> None:
    assert len(printed(20, terminal=False).splitlines()) > 4
    assert "state:" not in printed(20, terminal=False)


@pytest.mark.parametrize(("width", "terminal"), [(30, True), (200, True), (200, False)])
def test_names_of_columns_are_written_out(width: int, terminal: bool) -> None:
    """`split` has a column for each answer of the data."""
    output = Output()
    file = io.StringIO()
    output._out = Console(file=file, width=width, force_terminal=terminal, color_system=None, soft_wrap=True)
    output.table("sides", ["side", HOSTILE], [["train", "50%"], ["test", "50%" * 9]])
    shown = file.getvalue()
    assert r"yes\x1b[31m\u202e[bold]" in shown
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown


def test_the_next_command_is_quoted_and_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    Output().next_step("ntksel pull {url} STORE", url="file:///a b/{c}[red]\x1b[31m")
    assert capsys.readouterr().err == "next: ntksel pull 'file:///a b/{c}[red]\\x1b[31m' STORE\n"
