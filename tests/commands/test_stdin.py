"""`-` for standard input: kept by its content, resumable by name, in any format; never read from a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Cli
from tests.conftest import choice_rows, prompt_rows
from tests.data.formats import writers

ROWS = prompt_rows(12, seed=3)


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives bytes, or a terminal, to the next command."""
    return lambda data: monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(Terminal() if data is None else io.BytesIO(data))
    )


def featurize(cli: Cli, store: Path, data: Path | str, model: Path) -> dict[str, Any]:
    ran = cli("featurize", store, "--data", data, "--name", "d", "--kind", "embed", "--model", model, "--json")
    assert ran.code == 0, ran.err
    return dict(json.loads(ran.out))


@pytest.mark.parametrize(
    "name",
    [
        "data.jsonl",
        "data.jsonl.gz",
        "data.json.zst",
        "data.csv",
        "data.tsv.bz2",
        "data.parquet",
        "file.arrow",
        "stream.arrow",
    ],
)
def test_every_format_comes_by_standard_input(name: str, cli: Cli, tmp_path: Path, model_dir: Path, pipe: Any) -> None:
    writers.WRITERS[name](tmp_path / name, ROWS)
    pipe((tmp_path / name).read_bytes())
    shown = cli("info", "--data", "-", "--model", model_dir, "--rows", "12", "--json")
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    assert [row["row_id"] for row in found["rows"]] == [row["id"] for row in ROWS]
    assert not any(row["problem"] for row in found["rows"])


def test_rows_are_kept_in_the_store(cli: Cli, tmp_path: Path, model_dir: Path, pipe: Any) -> None:
    writers.jsonl(tmp_path / "d.jsonl", ROWS)
    data, store = (tmp_path / "d.jsonl").read_bytes(), tmp_path / "s"
    expected = featurize(cli, tmp_path / "of file", tmp_path / "d.jsonl", model_dir)
    pipe(data)
    assert featurize(cli, store, "-", model_dir)["digest"] == expected["digest"]
    (kept,) = (store / "data").iterdir()
    assert (kept.read_bytes(), kept.suffix) == (data, ".jsonl")
    pipe(data)  # again: the same rows, the same file, nothing to compute
    assert featurize(cli, store, "-", model_dir)["computed"] == 0
    assert list((store / "data").iterdir()) == [kept]
    pipe(None)  # at a terminal: by its name
    assert featurize(cli, store, "-", model_dir)["computed"] == 0
    assert cli("score", store, "--pool", "d", "--domain", "d", "--method", "random", "--name", "r").code == 0
    exported = tmp_path / "picked.jsonl"
    assert cli("select", store, "--score", "r", "-n", "3", "--name", "p", "--export", exported).code == 0
    assert len(exported.read_text().splitlines()) == 3
    pipe(data.replace(b"?", b"!", 1))
    ran = cli("featurize", store, "--data", "-", "--name", "d", "--kind", "embed", "--model", model_dir)
    assert ran.code == 12
    assert "holds other rows" in ran.error_line


def test_finetune_and_eval_take_it(cli: Cli, tmp_path: Path, model_dir: Path, pipe: Any) -> None:
    store = tmp_path / "s"
    writers.jsonl(tmp_path / "d.jsonl", ROWS)
    writers.jsonl(tmp_path / "t.jsonl", choice_rows(4))
    pipe((tmp_path / "d.jsonl").read_bytes())
    ran = cli("finetune", store, "--model", model_dir, "--train", "-", "--name", "r", "--epochs", "1", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["rows"] == 12
    pipe((tmp_path / "t.jsonl").read_bytes())
    ran = cli("eval", store, "--model", model_dir, "--run", "base", "--task", "-", "--name", "e", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["items"] == 4


def test_a_dry_run_keeps_nothing(cli: Cli, tmp_path: Path, model_dir: Path, pipe: Any) -> None:
    writers.jsonl(tmp_path / "d.jsonl", ROWS)
    pipe((tmp_path / "d.jsonl").read_bytes())
    on = ("--data", "-", "--name", "d", "--kind", "embed", "--model", model_dir)
    ran = cli("featurize", tmp_path / "s", *on, "--dry-run", "--device", "cpu")
    assert ran.code == 0, ran.err
    assert "embed: 12 rows" in ran.out
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (None, 2, "- reads rows from standard input, which is a terminal or closed. Pipe rows into it"),
        (b"", 1, "Nothing came by standard input. Pipe rows into it, or give a file."),
        (b"hello\n", 1, "line 1: not JSON"),
        (b"\x1f\x8b\x08broken", 1, "is not a complete gzip file"),
        (b"PAR1", 1, "is not a complete parquet file"),
        ("{}".encode("utf-16"), 1, "is in UTF-16"),
    ],
)
def test_what_is_refused(
    data: bytes | None, code: int, message: str, cli: Cli, tmp_path: Path, model_dir: Path, pipe: Any
) -> None:
    for command in (
        ("featurize", tmp_path / "s", "--data", "-", "--name", "d", "--kind", "embed", "--model", model_dir),
        ("info", "--data", "-", "--model", model_dir),
    ):
        pipe(data)
        ran = cli(*command)
        if command[0] == "featurize" or data != b"hello\n":
            assert ran.code == code, ran.err
            assert message in ran.error_line
    assert not list((tmp_path / "s" / "tmp").glob("*"))
