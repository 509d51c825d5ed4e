"""What is exported reads back as the same rows, in every format, or is refused by name."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntkcli.api import score
from ntkcli.data import DataFile, Row
from ntkcli.data.rows import canonical_row
from ntkcli.errors import DataError, NtkselError
from ntkcli.steps.selections.export import Format, checked_table, shaped
from ntkcli.steps.selections.export_values import json_lines
from ntkcli.steps.selections.select import select
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.stores import open_store
from tests.data.formats import writers
from tests.scoring.kit import add_data

SCHEMAS: tuple[Format, ...] = ("messages", "alpaca", "prompt-completion")
NAMES = ("y.jsonl", "y.parquet", "y")
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.integers(-3, 3), st.floats(), st.text(max_size=3)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
extras = st.lists(st.dictionaries(st.sampled_from(["x", "y", "source"]), values, max_size=3), min_size=2, max_size=4)


def as_table(value: Any) -> Any:
    """As a table has it: no key is null there, and neither are empty objects or numbers that are not finite."""
    if isinstance(value, dict):
        kept = {key: as_table(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None} or None
    if isinstance(value, list):
        return [as_table(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rows_of(file: Path) -> list[Row]:
    rows = list(DataFile(file).rows())
    assert all(isinstance(row, Row) for row in rows), rows
    return sorted((row for row in rows if isinstance(row, Row)), key=lambda row: row.row_id)


def usable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(more=extras)
def test_own_columns_read_back(tmp_path_factory: pytest.TempPathFactory, more: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("e")
    text = json.dumps(more).replace("Infinity", "1e999").replace("NaN", "null")
    rows = [{"id": f"r{i}", "prompt": f"Q{i}", "completion": "A", **one} for i, one in enumerate(json.loads(text))]
    file = folder / "pool.jsonl"
    file.write_text("".join(json.dumps(row).replace("Infinity", "1e999") + "\n" for row in rows))
    try:
        pool = rows_of(file)
    except AssertionError:
        return  # a text that no row may have
    for name in ("y.jsonl", "y.parquet"):
        refusal = write(folder / name, pool, "own", DataFile(file))
        if refusal:
            assert name != "y.jsonl"
            assert "Export .jsonl" in refusal
            continue
        back = rows_of(folder / name)
        assert [canonical_row(row) for row in back] == [canonical_row(row) for row in pool]
        plain = finite if name == "y.jsonl" else as_table
        assert [plain(row.raw) for row in back] == [plain(row.raw) for row in pool]


def write(path: Path, rows: list[Row], schema: Format, file: DataFile | None) -> str:
    """As an export writes them; the message where it refuses."""
    try:
        records = [shaped(row, schema) for row in rows]
        if path.suffix == ".jsonl":
            path.write_bytes(json_lines(records))
        else:
            pq.write_table(checked_table(records, file), path)
    except DataError as error:
        return str(error)
    return ""


def strict(line: str) -> Any:
    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


def store_of(folder: Path, table: pa.Table) -> Path:
    pq.write_table(table, folder / "pool.parquet")
    register_data(open_store(folder / "s", create=True), name="pool", data=folder / "pool.parquet")
    score(folder / "s", pool="pool", method="random", name="r")
    return folder / "s"


MAP = pa.map_(pa.string(), pa.int64())
COLUMNS: dict[str, tuple[pa.Array, list[Any]]] = {
    "map": (pa.array([[("k", 1)], [("k", 2), ("j", 3)]], MAP), [{"k": 1}, {"k": 2, "j": 3}]),
    "empty map": (pa.array([[], [("k", 2)]], MAP), [{}, {"k": 2}]),
    "map in lists": (
        pa.array([[{"m": [("k", 1)]}], None], pa.list_(pa.struct([("m", MAP)]))),
        [[{"m": {"k": 1}}], None],
    ),
    "map of numbers": (pa.array([[(1, "a")], None], pa.map_(pa.int64(), pa.string())), [{"1": "a"}, None]),
    "map that repeats": (
        pa.array([[("k", 1), ("k", 2)], None], MAP),
        [[{"key": "k", "value": 1}, {"key": "k", "value": 2}], None],
    ),
    "year 10000": (
        pa.array([253402300800000000, 0], pa.timestamp("us")),
        ["10000-01-01T00:00:00.000000", "1970-01-01T00:00:00"],
    ),
    "unknown zone": (
        pa.array([1, None], pa.timestamp("us", tz="Mars/Phobos")),
        ["1970-01-01T00:00:00.000001+00:00", None],
    ),
    "far duration": (pa.array([2**62, None], pa.duration("s")), [str(2**62), None]),
    "decimal": (pa.array([decimal.Decimal("1.10"), None]), ["1.10", None]),
    "binary": (pa.array([b"\0\xff", None]), ["AP8=", None]),
    "nan": (pa.array([float("nan"), math.inf]), [None, None]),
    "unsigned": (pa.array([2**63 + 1, 1], pa.uint64()), [2**63 + 1, 1]),
    "date": (pa.array([dt.date(2024, 1, 2), None]), ["2024-01-02", None]),
    "struct": (pa.array([[{"a": [1, None]}], None]), [[{"a": [1, None]}], None]),
}


@pytest.mark.parametrize("kind", list(COLUMNS))
def test_types_of_tables_read_back(kind: str, tmp_path: Path) -> None:
    """As JSON values, the same ones from every export."""
    column, expected = COLUMNS[kind]
    table = pa.table({"id": ["a", "b"], "prompt": ["P", "Q"], "completion": ["x", "y"], "v": column})
    path = store_of(tmp_path, table)
    assert [row.raw["v"] for row in rows_of(tmp_path / "pool.parquet")] == expected
    for name in NAMES:
        select(path, score="r", n=2, name="y", export=tmp_path / name)
        assert [as_table(row.raw["v"]) for row in rows_of(tmp_path / name)] == [as_table(each) for each in expected]
    for line in (tmp_path / "y.jsonl").read_text().splitlines():
        strict(line)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["x"])], names=["prompt", "prompt", "completion"])
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"two columns called 'prompt'.*Rename"):
        list(DataFile(tmp_path / "d.parquet").rows())


def test_a_number_beyond_a_float_is_null(tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_text('{"prompt": "a", "completion": "b", "p": 1e999, "q": [-1e999, 0.5]}\n')
    register_data(open_store(tmp_path / "s", create=True), name="pool", data=file)
    score(tmp_path / "s", pool="pool", method="random", name="r")
    select(tmp_path / "s", score="r", n=1, name="y", export=tmp_path / "y.jsonl")
    found = strict((tmp_path / "y.jsonl").read_text())
    assert (found["p"], found["q"]) == (None, [None, 0.5])


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ([2**70, 1], "more than 64 bits"),
        ([2**63, -1], "more than 64 bits"),
        ([2**60 + 1, 0.5], "fractions and the integer"),
        (["x", {"k": 1}], "mixed types"),
        ([{str(i): i for i in range(1500)}, None], "1500 different keys"),
    ],
)
def test_what_a_table_cannot_hold_is_refused_by_name(column: list[Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    rows = [{"id": str(i), "prompt": "Q", "completion": "A", "v": value} for i, value in enumerate(column)]
    add_data(path, "pool", rows)
    score(path, pool="pool", method="random", name="r")
    for name in ("y.parquet", "y"):
        with pytest.raises(DataError, match=rf"'v'.*{text}.*Export \.jsonl"):
            select(path, score="r", n=2, name="y", export=tmp_path / name)
        assert not (tmp_path / name).exists()
    select(path, score="r", n=2, name="y", export=tmp_path / "y.jsonl")
    assert [row.raw["v"] for row in rows_of(tmp_path / "y.jsonl")] == column


turn_texts = st.text(min_size=1, max_size=4).filter(lambda text: bool(text.strip()) and usable(text))


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    systems = draw(st.lists(st.just("system"), max_size=2))
    roles = [*systems, "user", *draw(st.lists(st.sampled_from(["assistant", "user"]), max_size=3))]
    return {"messages": [{"role": role, "content": draw(turn_texts)} for role in roles]}


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(chats(), min_size=1, max_size=3))
def test_trainers_formats_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("e")
    writers.jsonl(folder / "pool.jsonl", rows)
    expected = sorted([(m.role, m.content) for m in row.messages] for row in rows_of(folder / "pool.jsonl"))
    for schema in SCHEMAS:
        for name in ("y.jsonl", "y.parquet"):
            target = folder / f"{schema}-{name}"
            refusal = write(target, rows_of(folder / "pool.jsonl"), schema, None)
            if refusal:
                assert schema != "messages"
                assert "--format messages" in refusal
                continue
            assert sorted([(m.role, m.content) for m in row.messages] for row in rows_of(target)) == expected


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, "holds token ids"),
    ],
)
def test_rows_that_messages_would_change_are_refused(row: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    add_data(path, "pool", [row])
    score(path, pool="pool", method="random", name="r")
    with pytest.raises(NtkselError, match=rf"--format messages.*{text}.*Leave --format out"):
        select(path, score="r", n=1, name="y", export=tmp_path / "y.jsonl", schema="messages")
    for name in NAMES:
        select(path, score="r", n=1, name="y", export=tmp_path / name)
        assert [canonical_row(each) for each in rows_of(tmp_path / name)] == [
            canonical_row(each) for each in rows_of(tmp_path / "pool.jsonl")
        ]
