"""A row means the same in every format, or a format without types refuses it: never another answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkcli.data import BadRow, DataFile, Row, scan
from ntkcli.data.rows import canonical_row
from ntkcli.errors import DataError
from tests.data.formats import writers

TYPED = ("data.jsonl", "data.json", "data.parquet", "file.arrow")
UNTYPED = ("data.csv", "data.tsv", "data.csv.gz")
texts = st.sampled_from(["0", "1", "2", "3", "10", "A", "B", "b", "yes", "no", "-1", "1.0"])
answers = st.one_of(st.integers(0, 4), texts)
labels = st.sampled_from([None, 0, 1, "0", "s", '{"a": 1}'])


@st.composite
def items(draw: st.DrawFn) -> dict[str, Any]:
    choices = draw(st.lists(texts, min_size=2, max_size=5, unique=True))
    row: dict[str, Any] = {"prompt": "Q", "choices": choices, "answer": draw(answers)}
    if draw(st.booleans()):
        row["completion"] = draw(st.sampled_from([*choices, ""])) or None
    return row


def read(path: Path) -> Row | BadRow:
    *_, last = DataFile(path).rows()
    return last


FIRST = {"prompt": "P", "choices": ["x", "y"], "answer": 0, "completion": None}


@settings(max_examples=60)
@given(row=items(), as_text=st.booleans())
def test_an_item_means_one_choice_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any], as_text: bool
) -> None:
    """`as_text`: all answers of the file are strings, as columns of tables have one type."""
    folder = tmp_path_factory.mktemp("d")
    if as_text or isinstance(row["answer"], str):
        row = {**row, "answer": str(row["answer"])}
        first = {**FIRST, "answer": "x"}
    else:
        first = FIRST
    rows = [first, {"completion": None, **row}]
    typed = []
    for name in TYPED:
        writers.WRITERS[name](folder / name, rows)
        typed.append(read(folder / name))
    meant = {canonical_row(each) if isinstance(each, Row) else None for each in typed}
    assert len(meant) == 1
    for name in UNTYPED:
        writers.WRITERS[name](folder / name, rows)
        found = read(folder / name)
        if isinstance(found, Row):
            (expected,) = meant
            assert expected in (None, canonical_row(found)), (row, found.answer)


@settings(max_examples=40)
@given(label=labels, task=labels)
def test_labels_are_the_same_in_every_format(tmp_path_factory: pytest.TempPathFactory, label: Any, task: Any) -> None:
    folder = tmp_path_factory.mktemp("d")
    rows = [{"prompt": "Q", "completion": "A", "source": label, "task": task}]
    digests = set()
    for name in (*TYPED, *UNTYPED):
        writers.WRITERS[name](folder / name, rows)
        digests.add(scan(DataFile(folder / name), on_error="fail").digest)
    in_text = any(isinstance(each, str) and each.startswith("{") for each in (label, task))
    assert len(digests) == 1 or in_text  # an object or its text: a cell can't say which


NUMBERS = [
    {"prompt": "1+1?", "choices": ["4", "2", "1", "3"], "answer": 1},
    {"prompt": "2+1?", "choices": ["2", "0", "3", "1"], "answer": 2},
]


def test_a_cell_that_may_mean_two_choices_is_refused_with_the_fix(tmp_path: Path) -> None:
    writers.delimited(tmp_path / "n.csv", NUMBERS)
    with pytest.raises(DataError, match=r"the text of choice 2 and the index of choice 1.*letter \(choice 2 is C\)"):
        scan(DataFile(tmp_path / "n.csv"), on_error="fail")
    writers.jsonl(tmp_path / "n.jsonl", NUMBERS)
    expected = scan(DataFile(tmp_path / "n.jsonl"), on_error="fail").digest
    fixed = [
        [{**row, "answer": "ABCD"[row["answer"]]} for row in NUMBERS],  # type: ignore[index]
        [{**row, "completion": row["choices"][row["answer"]]} for row in NUMBERS],  # type: ignore[index]
    ]
    for rows in fixed:
        writers.delimited(tmp_path / "fixed.csv", rows)
        assert scan(DataFile(tmp_path / "fixed.csv"), on_error="fail").digest == expected


def test_an_empty_completion_cell_is_none(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('prompt,choices,answer,completion\nQ,"[""x"", ""y""]",1,\n')
    (row,) = DataFile(tmp_path / "c.csv").rows()
    assert isinstance(row, Row)
    assert row.answer == 1


def test_messages_in_cells_of_prompt_and_completion_are_refused(tmp_path: Path) -> None:
    pair = [[{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]]
    writers.delimited(tmp_path / "c.csv", [dict(zip(("prompt", "completion"), pair, strict=True))])
    with pytest.raises(DataError, match=r"lists of messages as text.*JSON Lines or parquet"):
        scan(DataFile(tmp_path / "c.csv"), on_error="fail")
    (tmp_path / "t.jsonl").write_text(json.dumps({"prompt": json.dumps(pair[0]), "completion": "b"}) + "\n")
    assert scan(DataFile(tmp_path / "t.jsonl"), on_error="fail").n == 1
