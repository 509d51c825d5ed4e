"""What tells that a file has changed: size, time and inode by default; `--exact-digests` reads it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows


def alter_in_place(path: Path) -> None:
    """Another byte in the last kilobyte; size, time and inode stay."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    at = data.rindex(b"a") if path.suffix == ".jsonl" else len(data) - 6
    data[at] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (stat.st_size, stat.st_mtime_ns, stat.st_ino)


@pytest.mark.parametrize("altered", ["data", "model"])
def test_a_change_that_only_reading_finds(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, altered: str
) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(10))
    model = Path(shutil.copytree(model_dir, tmp_path / "model"))
    command = ["featurize", tmp_path / "med", "--data", data, "--name", "d", "--kind", "embed", "--model", model]
    assert cli(*command).code == 0
    assert json.loads(cli("--exact-digests", *command, "--json").out)["computed"] == 0
    alter_in_place(data if altered == "data" else model / "model.safetensors")
    assert cli(*command).code == 0  # what daily use costs nothing for
    ran = cli("--exact-digests", *command)
    assert ran.code == 12
    assert ("holds other rows" if altered == "data" else "model.weights was") in ran.error_line


def test_the_option_ends_with_its_command(cli: Cli, tmp_path: Path, write_jsonl: Writer, model_dir: Path) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(10))
    command = ["featurize", tmp_path / "med", "--data", data, "--name", "d", "--kind", "embed", "--model", model_dir]
    assert cli("--exact-digests", *command).code == 0
    alter_in_place(data)
    assert cli(*command).code == 0
