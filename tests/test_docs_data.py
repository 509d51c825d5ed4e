"""The examples on the first screen of docs/data.md run as they stand, with the files that they show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.commands.conftest import Cli, cli

__all__ = ["cli"]  # the fixture
PAGE = (Path(__file__).resolve().parent.parent / "docs/data.md").read_text(encoding="utf-8")
SCREEN = PAGE.partition("Everything else is detail")[0]


def test_examples_run(cli: Cli, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chats").mkdir()
    files = {m[1]: m[2] for m in re.finditer(r"\$ (?:cat|head -1) (\S+)\n((?:    [^$\n].*\n)+)", SCREEN)}
    assert list(files) == ["pairs.jsonl", "exam.csv", "chats/train.jsonl"]
    for name, lines in {**files, "chats/test.jsonl": files["chats/train.jsonl"]}.items():
        (tmp_path / name).write_text(re.sub(r"^    ", "", lines, flags=re.MULTILINE))
    commands = [shlex.split(m[1])[1:] for m in re.finditer(r"\$ (ntksel .*)", SCREEN)]
    assert len(commands) == 5
    for command in commands:
        words = [str(model_dir) if word == "M" else word for word in command]
        ran = cli(*words)
        assert ran.code == 0, (command, ran.err)
        if command[0] == "info":
            assert "May I copy this?" in ran.out
            assert "⟦" in ran.out
