"""Whatever the encoding of stdout and stderr lacks is escaped: no output ends a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Writer

ROOT = Path(__file__).parents[2]
ROWS = [{"prompt": "emoji?", "completion": "👩‍👧 ok"}, {"prompt": "nfd", "completion": "café 가"}]


def ntksel(encoding: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-m", "ntkcli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, check=False)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_rows_that_an_encoding_lacks(tmp_path: Path, model_dir: Path, write_jsonl: Writer, encoding: str) -> None:
    data = write_jsonl("dätä.jsonl", ROWS)
    shown = ntksel(encoding, "info", "--data", data, "--model", model_dir)
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout.decode(encoding)
    assert ("가" if encoding == "utf-8" else "\\uac00") in text
    assert ("⟦" if encoding == "utf-8" else "\\u27e6") in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_errors_and_help(tmp_path: Path, encoding: str) -> None:
    assert ntksel(encoding, "--help").returncode == 0
    ran = ntksel(
        encoding, "featurize", tmp_path / "s", "--data", "가.jsonl", "--name", "d", "--kind", "embed", "--model", "x/가"
    )
    assert ran.returncode == 2
    assert b"error: --model x/\\uac00: " in ran.stderr
    assert b"Traceback" not in ran.stderr


def test_a_name_that_is_not_utf_8(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("d.jsonl", ROWS)
    odd = tmp_path / "odd\udce9.jsonl"
    try:
        odd.write_bytes(data.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    settings = ["--name", "d", "--kind", "embed"]
    for given in (["--data", odd, "--model", model_dir], ["--data", data, "--model", odd]):
        ran = ntksel("utf-8", "featurize", tmp_path / "s", *settings, *given)
        assert ran.returncode == 2, ran.stderr
        assert b"the name is not UTF-8" in ran.stderr
        assert b"Rename it." in ran.stderr
