"""Text of a data set in colours: only on a terminal, by weight, and nothing in it is obeyed."""

from __future__ import annotations

import pytest

from ntkcli.console import Output

PIECES = [("good", 2.0), (" some", 0.5), (" none", 0.01), ("\x1b]0;title\x07[bold]", -2.0), ("\nend", -0.2)]


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    Output().shaded(PIECES)
    return capsys.readouterr().out


def test_colours_by_weight(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(capsys, monkeypatch, terminal=True)
    assert "\x1b[1;7;32mgood\x1b[0m" in text  # the strongest stand out, and what raises is green
    assert "\x1b[1;32m some\x1b[0m" in text
    assert " none" in text.split("\x1b[0m")[2].split("\x1b")[0]  # too little for a colour
    assert "\x1b[1;7;31m\\x1b]0;title\\x07[bold]\x1b[0m" in text
    assert "\x1b]0" not in text
    assert "\x07" not in text


def test_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(capsys, monkeypatch, terminal=False) == ""
