"""Exports read back by those who will read them, and manifests that hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from ntkcli.api import score
from ntkcli.data import DataFile, Row
from ntkcli.errors import NtkselError
from ntkcli.steps.selections.export import _FORMATS, _write_parquet, checked_table
from ntkcli.steps.selections.select import select
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli, cli
from tests.scoring.kit import add_data, make_store

__all__ = ["cli"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path, *_ = make_store(tmp_path)
    score(path, pool="pool", domain="domain", method="cosine", feature="embed", name="x")
    score(path, pool="pool", method="random", name="r")
    return path


def own_rows(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (path.parent / "pool.jsonl").read_text().splitlines()]
    return [rows[row] for row in open_store(path).get("selections/y").read("row")]


def test_table_formats_hold_the_pools_own_columns(path: Path, tmp_path: Path) -> None:
    from datasets import load_from_disk

    for name in ("y.jsonl", "y.parquet", "y"):
        select(path, score="x", n=7, name="y", export=tmp_path / name)
    found = {
        "jsonl": [json.loads(line) for line in (tmp_path / "y.jsonl").read_text().splitlines()],
        "parquet": parquet.read_table(tmp_path / "y.parquet").to_pylist(),
        "disk": list(load_from_disk(tmp_path / "y")),
    }
    for rows in found.values():
        assert rows == found["jsonl"]
    own = [{k: v for k, v in row.items() if not k.startswith("ntksel_")} for row in found["jsonl"]]
    assert own == own_rows(path)
    assert [row["ntksel_rank"] for row in found["jsonl"]] == list(range(1, 8))


CALL = {"id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}}
U, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
CHATS = [
    {"messages": [U, {**A, "train": False}, U, {**A, "thinking": "why"}]},
    {"messages": [U, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "1", "name": "f"}, A]},
    {"messages": [U, A], "tools": [{"name": "f", "parameters": {"type": "object"}}]},
]


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.parquet"])
def test_chats_read_back_as_the_same_rows(name: str, tmp_path: Path) -> None:
    """Marks, thoughts, calls, results and functions are a part of the row."""
    source = tmp_path / "source.jsonl"
    source.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    rows = [row for row in DataFile(source).rows() if isinstance(row, Row)]
    records = [_FORMATS["messages"](row) for row in rows]
    if name.endswith(".parquet"):
        _write_parquet(tmp_path / name, checked_table(records, None), {})
    else:
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    again = [row for row in DataFile(tmp_path / name).rows() if isinstance(row, Row)]
    assert [row.row_id for row in again] == [row.row_id for row in rows]
    assert len(rows) == len(CHATS)
    for row in (rows[1], rows[2]):
        with pytest.raises(NtkselError, match="is not a single question and answer"):
            _FORMATS["alpaca"](row)


def test_the_answers_of_a_prompt_stay_unlearned_as_messages(tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    source.write_text(json.dumps({"prompt": [U, A, U], "completion": [A]}))
    (row,) = DataFile(source).rows()
    assert isinstance(row, Row)
    assert [turn.get("weight") for turn in _FORMATS["messages"](row)["messages"]] == [None, 0, None, None]


@pytest.mark.parametrize("schema", ["messages", "alpaca", "prompt-completion"])
def test_trainers_schemas(schema: Any, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "y.jsonl"
    select(path, score="x", n=7, name="y", export=file, schema=schema)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, own in zip(rows, own_rows(path), strict=True):
        if schema == "messages":
            pair = [turn["content"] for turn in row["messages"]]
        else:
            pair = [row["instruction"], row["output"]] if schema == "alpaca" else [row["prompt"], row["completion"]]
        assert pair == [own["prompt"], own["completion"]]
    if schema != "alpaca":  # what we read ourselves comes back as the same texts
        back = [row for row in DataFile(file).rows() if isinstance(row, Row)]
        assert [row.messages[0].content for row in back] == [own["prompt"] for own in own_rows(path)]


def texts(row: dict[str, Any]) -> list[str]:
    """Prompt and answer of a row in any of the schemas."""
    if "messages" in row:
        return [turn["content"] for turn in row["messages"]]
    return [row["instruction"], row["output"]] if "instruction" in row else [row["prompt"], row["completion"]]


@pytest.mark.parametrize("schema", ["messages", "alpaca", "prompt-completion"])
@pytest.mark.parametrize("name", ["y.jsonl", "y.parquet", "y"])
def test_trainers_entries_are_read_back(name: str, schema: Any, path: Path, tmp_path: Path) -> None:
    """TRL's by `datasets`, LLaMA-Factory's by our reader of its dataset_info.json; the same rows as the pool's."""
    from datasets import load_dataset, load_from_disk

    select(path, score="x", n=7, name="y", export=tmp_path / name, schema=schema)
    entries = json.loads((tmp_path / f"{name}.manifest.json").read_text())["trainers"]
    expected = [[own["prompt"], own["completion"]] for own in own_rows(path)]
    assert ("trl" in entries, "llama_factory" in entries) == (schema != "alpaca", name != "y")
    if "trl" in entries:
        trl = entries["trl"]
        from_disk = trl.get("load_from_disk")
        rows = load_from_disk(from_disk) if from_disk else load_dataset(**trl, split="train", cache_dir=tmp_path / "c")
        assert [texts(row) for row in rows] == expected
    if "llama_factory" in entries:
        (tmp_path / "dataset_info.json").write_text(json.dumps(entries["llama_factory"]))
        read = DataFile(f"{tmp_path / 'dataset_info.json'}:y").rows()
        assert [[m.content for m in row.messages] for row in read if isinstance(row, Row)] == expected
    (axolotl,) = entries["axolotl"]["datasets"]
    assert axolotl.get("ds_type") == {"y.jsonl": "json", "y.parquet": "parquet", "y": None}[name]
    assert Path(axolotl["path"]).exists()


def test_axolotl_is_told_of_system_texts(path: Path, tmp_path: Path) -> None:
    turns = [{"role": r, "content": c} for r, c in (("system", "be brief"), ("user", "a"), ("assistant", "b"))]
    add_data(path, "chats", [{"messages": turns}])
    score(path, pool="chats", method="random", name="c")
    select(path, score="c", n=1, name="c", export=tmp_path / "c.jsonl", schema="alpaca")
    entry = json.loads((tmp_path / "c.jsonl.manifest.json").read_text())["trainers"]["axolotl"]["datasets"][0]
    assert entry["type"] == "alpaca_w_system.load_instruct"


@pytest.mark.parametrize("name", ["y.jsonl", "y.parquet", "y"])
def test_again_gives_the_same_bytes(name: str, path: Path, tmp_path: Path) -> None:
    file, manifests = tmp_path / name, []
    for _ in range(2):
        select(path, score="x", n=7, name="y", export=file)
        manifests.append((tmp_path / f"{name}.manifest.json").read_bytes())
    assert manifests[0] == manifests[1]
    manifest = json.loads(manifests[0])
    data = [file] if file.is_file() else sorted(file.glob("*.arrow"))
    assert manifest["sha256"] == hashlib.sha256(b"".join(each.read_bytes() for each in data)).hexdigest()
    assert {"scores/x", "features/pool/embed", "features/domain/embed", "datasets/pool"} <= set(manifest["made_from"])


def test_all_scores_as_parquet(path: Path, tmp_path: Path) -> None:
    select(path, score="x", n=7, name="y", scores_export=tmp_path / "scores.parquet")
    table = parquet.read_table(tmp_path / "scores.parquet")
    assert table.column_names == ["row", "row_id", "source", "score_r", "score_x"]
    for name in ("r", "x"):
        expected = open_store(path).get(f"scores/{name}").read("score")
        np.testing.assert_array_equal(table[f"score_{name}"].to_numpy(), expected)
    assert table["source"].to_pylist()[:3] == ["a", "b", "c"]


def test_what_cannot_be_exported(path: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work")
    for name, text in (("thesis", "didn't write"), ("y.xlsx", "can't be written"), ("no/y.jsonl", "no folder")):
        with pytest.raises(NtkselError, match=text):
            select(path, score="x", n=7, name="y", export=tmp_path / name)
    assert (tmp_path / "thesis/chapter.tex").read_text() == "years of work"
    turns = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    add_data(path, "chats", [{"messages": turns}])
    score(path, pool="chats", method="random", name="c")
    for schema in ("alpaca", "prompt-completion"):
        with pytest.raises(NtkselError, match=r"line 1\) is not a single question and answer.*--format messages"):
            select(path, score="c", n=1, name="c", export=tmp_path / "c.jsonl", schema=schema)  # type: ignore[arg-type]


def test_command_line(path: Path, tmp_path: Path, cli: Cli) -> None:
    command = ("select", path, "--score", "x", "-n", "4", "--name", "z")
    ran = cli(*command, "--export", tmp_path / "z.parquet", "--format", "messages",
              "--export-scores", tmp_path / "s.parquet")  # fmt: skip
    assert ran.code == 0, ran.err
    assert set(parquet.read_table(tmp_path / "z.parquet").column_names) == {"messages", "ntksel_score", "ntksel_rank"}
    assert cli(*command, "--format", "alpaca").code == 2
