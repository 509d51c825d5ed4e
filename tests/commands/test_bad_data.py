"""Every kind of broken file and row through the command line: one line with file, reason and fix, and the exit."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Cli
from tests.data import test_files, test_schemas
from tests.data.formats import test_formats

FILES: dict[
    str, tuple[str, Any, str, int]
] = {  # name of the case -> file, its content, the reason, bad rows' exit code
    **{f"format: {name}": (name, content, reason, 1) for name, content, reason in test_formats.BAD},
    **{f"file: {name}, {reason[:40]}": (name, content, reason, 1) for name, content, _, reason in test_files.BAD_FILES},
    **{
        f"row: {name}": ("data.jsonl", [good, bad, good], reason, 1)
        for name, good, bad, _, reason in test_files.BAD_ROWS
    },
    **{f"schema: {reason}": ("data.jsonl", [line], reason, 1) for line, reason in test_schemas.BAD},
    "rows: ids twice": ("data.jsonl", [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "stands already in line 1", 1),
    "rows: mixed schemas": ("data.jsonl", [{"text": "a"}, {"prompt": "Q", "completion": "A"}], "'text' is missing", 1),
    "gzip: cut": ("data.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9999)[:-20], "is not a complete gzip file", 1),
}
USAGE = ("does not exist", "not of a type that can be read")


def write(path: Path, content: Any) -> None:
    if callable(content):
        content(path)
    elif isinstance(content, list):
        lines = [line if isinstance(line, bytes | str) else json.dumps(line) for line in content]
        path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    elif content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize("case", list(FILES))
def test_bad_data(case: str, cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    name, content, reason, code = FILES[case]
    data = tmp_path / name
    write(data, content)
    on = ("--name", "d", "--kind", "embed", "--model", model_dir, "--dry-run")
    ran = cli("featurize", tmp_path / "s", "--data", data, *on)
    assert ran.code == (2 if any(text in reason for text in USAGE) else code), ran.err
    line = ran.error_line
    assert line.startswith(f"error: {data}")
    assert " ".join(reason.split()) in line
    assert line.count(". ") >= 1, "no fix"
    assert line.isprintable()
    assert ran.out == ""
    assert not (tmp_path / "s").exists()


def test_there_are_forty_kinds() -> None:
    assert len(FILES) >= 40


FOLDERS = [
    ("empty", (), 2, "has no data file in it. Give files: .jsonl"),
    ("empty/*.parquet", (), 2, "has no data file in it"),
    ("org/none", (), 2, "org/none is not a file here, and the Hub doesn't give it"),
    (
        "org/none:config@main",
        ("--split", "train"),
        2,
        "org/none:config@main is not a file here, and the Hub doesn't give it",
    ),
    ("splits", (), 2, "has the splits test, train. Give --split test, or a glob."),
    ("splits", ("--split", "dev"), 2, "has no file of that split. Give one of: test, train."),
    ("one.jsonl", ("--split", "train"), 2, "is one file, which has no splits. Leave the option out."),
    ("dataset_info.json:none", (), 2, "has no entry 'none'"),
    ("/dev/null", (), 2, "is not a regular file, and rows are read more than once. Write it to a file, or give -"),
]


@pytest.mark.parametrize(("data", "options", "code", "reason"), FOLDERS)
def test_places_without_data(
    data: str,
    options: tuple[str, ...],
    code: int,
    reason: str,
    cli: Cli,
    tmp_path: Path,
    model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "splits").mkdir()
    for name in ("one.jsonl", "splits/train.jsonl", "splits/test.jsonl"):
        write(tmp_path / name, [{"text": "a b"}])
    (tmp_path / "dataset_info.json").write_text("{}")
    for command in (("featurize", "s", "--name", "d", "--kind", "embed"), ("info",)):
        ran = cli(*command, "--data", data, "--model", model_dir, *options)
        assert ran.code == code, ran.err
        assert reason in ran.error_line


HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]x\u202e"


def test_nothing_of_a_row_reaches_the_terminal_as_a_command(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    """Ids, labels, texts, column names and reasons: escape sequences are written out, markup is not interpreted."""
    data = tmp_path / "d.jsonl"
    rows = [
        {"id": HOSTILE, "source": HOSTILE, "prompt": HOSTILE, "completion": HOSTILE},
        {"id": "2", "prompt": "Q", "completion": "A", "choices": HOSTILE},
        {"id": HOSTILE, "prompt": "Q", "completion": "A"},
        {"id": "4", "prompt": HOSTILE, HOSTILE: 1},
    ]
    write(data, rows)
    shown = cli("info", "--data", data, "--model", model_dir)
    refused = cli("featurize", tmp_path / "s", "--data", data, "--name", "d", "--kind", "embed", "--model", model_dir)
    assert (shown.code, refused.code) == (0, 1)
    for text in (shown.out, shown.err, refused.out, refused.err):
        assert not any(char in text for char in "\x1b\x07\u202e")
    assert "[bold red]x" in shown.out
    assert "\\x1b[2J" in shown.out
    assert "stands already in line 1" in refused.err
    named = tmp_path / f"{HOSTILE.replace('/', '')}.jsonl"
    ran = cli("featurize", tmp_path / "s", "--data", named, "--name", "d", "--kind", "embed", "--model", model_dir)
    assert ran.code == 2
    assert "\x1b" not in ran.err
