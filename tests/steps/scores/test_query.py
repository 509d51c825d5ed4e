"""`query`: the cosine is that of a data set of the one row, scored; hostile texts are shown and not obeyed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.api import score
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.scores.query import query
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune
from tests.commands.conftest import Cli, cli
from tests.conftest import Writer, prompt_rows

__all__ = ["cli"]

ROW = {"prompt": "Which colour is the sky?", "completion": "blue"}


@pytest.fixture
def pool(tmp_path: Path, write_jsonl: Writer) -> Path:
    rows = prompt_rows(11, seed=1, source="general")
    rows[4] |= {"prompt": "\x1b[31mred\x1b[0m [bold]loud[/bold]\nnext"}
    return write_jsonl("pool.jsonl", rows)


def featurized(path: Path, data: Path, name: str, **how: Any) -> None:
    featurize(path, data=data, name=name, **how)


SETTINGS: list[dict[str, Any]] = [
    {"kind": "ntk", "dim": 64, "probe": "rademacher", "probes": 2, "seed": 5, "rank": 3, "adapter_seed": 2},
    {"kind": "embed", "store_dtype": "int8", "pooling": "weighted", "max_length": 12},
    {"kind": "loss", "dim": 32, "adapter": "warm", "adam": True, "store_dtype": "int8", "layers": "last:1"},
    {"kind": "loss", "projection": "none", "adapter": "warm", "store_dtype": "float32"},
]


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize("centre", [False, True])
def test_the_cosine_of_a_data_set_of_one_row(
    how: dict[str, Any], centre: bool, tmp_path: Path, model_dir: Path, pool: Path, write_jsonl: Writer
) -> None:
    path = tmp_path / "s"
    if "adapter" in how:
        training = {"epochs": 2, "rank": 2, "batch_size": 4, "keep_optimizer": True}
        finetune(path, model=str(model_dir), train=[str(pool)], name="warm", **training)  # type: ignore[arg-type]
    featurized(path, pool, "pool", model=str(model_dir), feature="f", **how)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    found = query(path, pool="pool", feature="f", **ROW, n=20, bottom=True, centre=centre)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    featurized(path, write_jsonl("one.jsonl", [ROW]), "one", model=str(model_dir), feature="f", **how)
    score(path, pool="pool", domain="one", method="cosine", feature="f", centre=centre, name="x")
    expected = open_store(path).get("scores/x").read("score")
    assert [each.row for each in found.nearest] == np.argsort(-expected, kind="stable").tolist()
    assert [each.value for each in found.nearest] == [float(expected[each.row]) for each in found.nearest]
    assert found.farthest is not None
    assert list(found.farthest) == list(found.nearest[::-1])
    assert [each.rank for each in found.nearest] == list(range(1, 12))
    assert found.truncated == (how.get("max_length") == 12)


@pytest.fixture
def made(tmp_path: Path, model_dir: Path, pool: Path) -> Path:
    featurized(tmp_path / "s", pool, "pool", model=str(model_dir), kind="embed")
    return tmp_path / "s"


def test_command_line(made: Path, pool: Path, cli: Cli, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the pool is nearest to itself, however it is given; its text is escaped."""
    row = json.loads(pool.read_text().splitlines()[4])
    file = write_jsonl("row.jsonl", [row])
    words = ("query", made, "--pool", "pool", "--feature", "embed", "-n", "3")
    found = json.loads(cli(*words, "--row", file, "--bottom", "--json").out)
    assert found["nearest"][0]["row"] == 4
    assert found["nearest"][0]["value"] == pytest.approx(1, abs=1e-3)
    assert found["nearest"][0]["text"] == f"{row['prompt']}\n{row['completion']}"
    assert (found["scored"], len(found["nearest"]), len(found["farthest"])) == (11, 3, 3)
    ran = cli(*words, "--prompt", row["prompt"], "--completion", row["completion"])
    assert (ran.code, "\x1b" in ran.out) == (0, False)
    assert "\\x1b[31mred\\x1b[0m [bold]loud[/bold] next" in ran.out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert json.loads(cli(*words, "--row", "-", "--bottom", "--json").out) == found
    assert json.loads(cli(*words, "--text", "red", "--json").out)["farthest"] is None


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        ((), "The row is missing", 2),
        (("--text", "a", "--prompt", "b", "--completion", "c"), "several ways", 2),
        (("--prompt", "b"), "--completion is missing", 2),
        (("--row", "{two}"), "more than one row", 2),
        (("--row", "{odd}"), "fits no schema", 1),
        (("--row", "{broken}"), "not JSON", 1),
        (("--text", "a", "--feature", "ntk"), "ntk", 10),
        (("--text", "a", "--pool", "other"), "other", 10),
    ],
)
def test_rows_that_can_not_be_asked_for(
    words: tuple[str, ...], told: str, code: int, made: Path, cli: Cli, tmp_path: Path
) -> None:
    files = {"two": '{"text": "a"}\n{"text": "b"}\n', "odd": '{"words": "a"}\n', "broken": "{\n"}
    for name, content in files.items():
        (tmp_path / f"{name}.jsonl").write_text(content)
    given = [word if word[0] != "{" else str(tmp_path / f"{word[1:-1]}.jsonl") for word in words]
    usual = {"--pool": "pool", "--feature": "embed"}
    rest = [word for pair in usual.items() if pair[0] not in given for word in pair]
    ran = cli("query", made, *rest, *given)
    assert ran.code == code, ran.err
    assert told in ran.error_line


def test_a_model_that_changed_is_refused(made: Path, cli: Cli, model_dir: Path, tmp_path: Path) -> None:
    from tests.conftest import save_model

    other = tmp_path / "other"
    save_model(other, seed=0)
    featurized(made, tmp_path / "pool.jsonl", "pool", model=str(other), kind="embed", feature="g")
    save_model(other, seed=7)
    ran = cli("query", made, "--pool", "pool", "--feature", "g", "--text", "red")
    assert ran.code != 0
    assert "has changed since" in ran.error_line
    assert "Featurize again" in ran.error_line or "featurize again" in ran.error_line


def test_rows_as_the_pools_file_has_them(tmp_path: Path, model_dir: Path, cli: Cli, write_jsonl: Writer) -> None:
    rows = [{"q": row["prompt"], "a": row["completion"]} for row in prompt_rows(5, seed=1)]
    columns = {"prompt": "q", "completion": "a"}
    featurized(
        tmp_path / "s", write_jsonl("p.jsonl", rows), "pool", model=str(model_dir), kind="embed", columns=columns
    )
    found = query(tmp_path / "s", pool="pool", feature="embed", row=write_jsonl("row.jsonl", rows[2:3]))
    assert found.nearest[0].row == 2


def test_a_plain_document(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """Of a pool that was featurized without a chat template."""
    how = {"model": str(model_dir), "kind": "ntk", "dim": 32, "positions": "all", "text_as": "raw", "feature": "f"}
    texts = [{"text": f"Document {i} about {word}."} for i, word in enumerate(("red", "blue", "sky", "sea"))]
    featurized(tmp_path / "s", write_jsonl("p.jsonl", texts), "pool", **how)
    found = query(tmp_path / "s", pool="pool", feature="f", text="A red sky.")
    featurized(tmp_path / "s", write_jsonl("one.jsonl", [{"text": "A red sky."}]), "one", **how)
    score(tmp_path / "s", pool="pool", domain="one", method="cosine", feature="f", centre=True, name="x")
    expected = open_store(tmp_path / "s").get("scores/x").read("score")
    assert {each.row: each.value for each in found.nearest} == dict(enumerate(expected.tolist()))
