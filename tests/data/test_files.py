"""Data files: good ones in each form, and a table of broken files and rows with the reason each gives."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntkcli.data import BadRow, DataFile, Message, Row, pick, scan
from ntkcli.data import files as files_module
from ntkcli.data.formats import jsonl as jsonl_module
from ntkcli.errors import DataError, UsageError
from store import RowStatus

GOOD = {"prompt": "Q", "completion": "A"}
CHOICES = {"prompt": "Q", "choices": ["x", "y"], "answer": 1}
USER, ASSISTANT = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
CHAT = {"messages": [USER, ASSISTANT]}
UNREADABLE, EMPTY = RowStatus.UNREADABLE, RowStatus.EMPTY


def test_schemas_give_the_same_messages(write):
    turns = (Message("user", "Q"), Message("assistant", "y"))
    for line in (
        {"prompt": "Q", "completion": "y"},
        {"prompt": "Q", "choices": ["x", "y"], "answer": 1},
        {"prompt": "Q", "choices": ["x", "y"], "answer": "b"},
        {"prompt": "Q", "choices": ["x", "y"], "answer": " y "},
        {"prompt": "Q", "choices": ["x", "y"], "answer": 1, "completion": "y"},
        {"messages": [USER, {"role": "assistant", "content": "y"}]},
    ):
        (row,) = DataFile(write(line)).rows()
        assert isinstance(row, Row)
        assert row.messages == turns
        assert (row.choices, row.answer) == ((("x", "y"), 1) if "choices" in line else ((), None))
        assert row.raw == line


@pytest.mark.parametrize(
    ("line", "schema"),
    [
        (GOOD, "prompt/completion"),
        (CHOICES, "prompt/choices/answer"),
        (CHOICES | {"completion": "y"}, "prompt/choices/answer"),
        (GOOD | {"choices": None, "answer": None}, "prompt/completion"),
        (GOOD | CHAT, "messages"),
    ],
)
def test_schema_is_detected(write, line, schema):
    assert DataFile(write(line)).schema.name == schema


def test_a_choice_text_wins_over_a_letter(write):
    (row,) = DataFile(write({"prompt": "Q", "choices": ["B", "A"], "answer": "A"})).rows()
    assert isinstance(row, Row)
    assert row.answer == 1


def test_system_turns_and_open_ends_are_fine(write):
    system = {"role": "system", "content": ""}
    lines = [{"messages": [system, USER, ASSISTANT, USER]}, {"messages": [USER]}]
    assert [len(row.messages) for row in DataFile(write(*lines)).rows() if isinstance(row, Row)] == [4, 1]


def test_ids_and_labels(write):
    lines = [
        GOOD | {"id": "a", "row_id": "b", "source": "s", "task": "t"},
        GOOD | {"row_id": 7, "source": None, "dataset": "d", "task": "t"},
        GOOD | {"id": None, "task": {"name": "an object"}},
        {"completion": "A", "prompt": "Q"},
    ]
    found = scan(DataFile(write(*lines)), on_error="fail")
    assert list(found.row_ids)[:2] == ["a", "7"]
    assert list(found.row_ids)[2] == list(found.row_ids)[3]  # equal rows without an id may repeat
    assert len(list(found.row_ids)[2]) == 16
    assert found.sources == ["s", "d", ""]
    assert found.source_codes.tolist() == [0, 1, 2, 2]
    assert (found.source_codes.dtype, found.status.dtype) == (np.int32, np.uint8)


def test_positions_count_bad_rows_and_lines_count_blank_ones(write):
    path = write("", GOOD, "  ", "{", GOOD, "")
    rows = list(DataFile(path).rows())
    assert [(type(row), row.index, row.line) for row in rows] == [(Row, 0, 2), (BadRow, 1, 4), (Row, 2, 5)]
    assert [row.index for row in pick(DataFile(path), [2, 0])] == [0, 2]


# A good row first, which sets the schema; the bad one in line 2.
BAD_ROWS = [
    ("not utf-8", GOOD, b'{"prompt": "\xff"}', UNREADABLE, "not UTF-8: byte 0xff at position 12"),
    ("latin-1", GOOD, '{"prompt": "é"}'.encode("latin-1"), UNREADABLE, "not UTF-8: byte 0xe9 at position 12"),
    ("NUL bytes", GOOD, b"\0" * 40, UNREADABLE, "not text: NUL byte at position 0"),
    ("NUL in a string", GOOD, b'{"prompt": "\0"}', UNREADABLE, "not text: NUL byte at position 12"),
    (
        "escaped NUL",
        GOOD,
        r'{"prompt": "\u0000", "completion": "A"}',
        UNREADABLE,
        "'prompt' holds a NUL character",
    ),
    ("surrogate", GOOD, r'{"prompt": "\ud83d", "completion": "A"}', UNREADABLE, "(the surrogate \\ud83d)"),
    (
        "surrogate deep",
        GOOD,
        r'{"prompt": "Q", "completion": "A", "x": [{"k": "\uDFFF"}]}',
        UNREADABLE,
        "'x' holds half",
    ),
    (
        "cut off",
        GOOD,
        '{"prompt": "Q", "comp',
        UNREADABLE,
        "not JSON: Unterminated string starting at character 16",
    ),
    ("not JSON", GOOD, "prompt,completion", UNREADABLE, "not JSON: Expecting value at character 0"),
    ("two on a line", GOOD, '{"a": 1} {"b": 2}', UNREADABLE, "not JSON: Extra data at character 9"),
    ("NaN", GOOD, '{"prompt": "Q", "completion": "A", "x": NaN}', UNREADABLE, "not JSON: it holds NaN"),
    ("infinity", GOOD, '{"x": -Infinity}', UNREADABLE, "not JSON: it holds -Infinity"),
    ("huge integer", GOOD, '{"x": ' + "1" * 5000 + "}", UNREADABLE, "not JSON: Exceeds the limit"),
    ("deep", GOOD, "[" * 100_000, UNREADABLE, "nested too deeply"),
    ("a list", GOOD, ["Q", "A"], UNREADABLE, "a list, not an object with columns"),
    ("a string", GOOD, '"Q"', UNREADABLE, "the string 'Q', not an object with columns"),
    ("null", GOOD, "null", UNREADABLE, "null, not an object with columns"),
    (
        "missing",
        GOOD,
        {"id": 1, "prompt": "Q"},
        UNREADABLE,
        "the column 'completion' is missing, which prompt/comp",
    ),
    ("missing, found", GOOD, {"id": 1, "prompt": "Q"}, UNREADABLE, "found: id, prompt"),
    ("mixed schemas", GOOD, CHAT, UNREADABLE, "the column 'prompt' is missing"),
    ("no columns", GOOD, {}, UNREADABLE, "found: none"),
    (
        "null prompt",
        GOOD,
        GOOD | {"prompt": None},
        UNREADABLE,
        "the column 'prompt' holds null, not a string",
    ),
    (
        "number",
        GOOD,
        GOOD | {"completion": 3},
        UNREADABLE,
        "the column 'completion' holds the number 3, not a string",
    ),
    (
        "true",
        GOOD,
        GOOD | {"completion": True},
        UNREADABLE,
        "the column 'completion' holds true, not a string",
    ),
    ("messages in prompt", GOOD, GOOD | {"prompt": [USER]}, UNREADABLE, "the column 'prompt' holds a list"),
    ("empty prompt", GOOD, GOOD | {"prompt": " \n"}, EMPTY, "the column 'prompt' is empty"),
    ("empty completion", GOOD, GOOD | {"completion": ""}, EMPTY, "the column 'completion' is empty"),
    (
        "id is a list",
        GOOD,
        GOOD | {"id": [1]},
        UNREADABLE,
        "the column 'id' holds a list, not a string or an integer",
    ),
    ("id is a fraction", GOOD, GOOD | {"id": 1.5}, UNREADABLE, "the column 'id' holds the number 1.5"),
    (
        "no list",
        CHOICES,
        CHOICES | {"choices": "x"},
        UNREADABLE,
        "the column 'choices' holds the string 'x', not a list",
    ),
    ("no choices", CHOICES, CHOICES | {"choices": []}, UNREADABLE, "the column 'choices' is an empty list"),
    (
        "number choice",
        CHOICES,
        CHOICES | {"choices": ["x", 2]},
        UNREADABLE,
        "choice 1 in 'choices' holds the number 2",
    ),
    (
        "null choice",
        CHOICES,
        CHOICES | {"choices": ["x", None]},
        UNREADABLE,
        "choice 1 in 'choices' holds null",
    ),
    ("empty choice", CHOICES, CHOICES | {"choices": ["x", ""]}, EMPTY, "choice 1 in 'choices' is empty"),
    (
        "twice",
        CHOICES,
        CHOICES | {"choices": ["x", "x "]},
        UNREADABLE,
        "choice 1 in 'choices', the string 'x ', is there twice",
    ),
    ("too large", CHOICES, CHOICES | {"answer": 2}, UNREADABLE, "holds 2, but the choices count from 0 to 1"),
    (
        "negative",
        CHOICES,
        CHOICES | {"answer": -1},
        UNREADABLE,
        "holds -1, but the choices count from 0 to 1",
    ),
    (
        "letter",
        CHOICES,
        CHOICES | {"answer": "C"},
        UNREADABLE,
        "the column 'answer' holds the string 'C', which is no",
    ),
    (
        "empty answer",
        CHOICES,
        CHOICES | {"answer": ""},
        UNREADABLE,
        "the column 'answer' holds the string ''",
    ),
    (
        "true answer",
        CHOICES,
        CHOICES | {"answer": True},
        UNREADABLE,
        "the column 'answer' holds true, which is not an index",
    ),
    ("null answer", CHOICES, CHOICES | {"answer": None}, UNREADABLE, "the column 'answer' holds null"),
    (
        "other text",
        CHOICES,
        CHOICES | {"completion": "x"},
        UNREADABLE,
        "holds the string 'x', but the answer is choice 1",
    ),
    ("no messages", CHAT, {"messages": []}, EMPTY, "the column 'messages' is an empty list"),
    ("messages null", CHAT, {"messages": None}, UNREADABLE, "the column 'messages' holds null, not a list"),
    ("message a string", CHAT, {"messages": ["Q"]}, UNREADABLE, "message 1 in 'messages' is the string 'Q'"),
    (
        "nested null",
        CHAT,
        {"messages": [USER, None]},
        UNREADABLE,
        "message 2 in 'messages' is null, not an object",
    ),
    (
        "no content",
        CHAT,
        {"messages": [{"role": "user", "value": "Q"}]},
        UNREADABLE,
        "has no 'content'; found: role, value",
    ),
    (
        "content null",
        CHAT,
        {"messages": [USER | {"content": None}]},
        UNREADABLE,
        "the content of message 1 in 'messages' holds",
    ),
    (
        "content empty",
        CHAT,
        {"messages": [USER, ASSISTANT | {"content": ""}]},
        EMPTY,
        "message 2 in 'messages' is empty",
    ),
    (
        "role",
        CHAT,
        {"messages": [USER, {"role": "bot", "content": "A"}]},
        UNREADABLE,
        "has as role the string 'bot'; known",
    ),
    (
        "role a list",
        CHAT,
        {"messages": [{"role": [], "content": "A"}]},
        UNREADABLE,
        "has as role a list; known are system",
    ),
    ("assistant first", CHAT, {"messages": [ASSISTANT, USER]}, UNREADABLE, "starts with the assistant"),
    ("system only", CHAT, {"messages": [USER | {"role": "system"}]}, UNREADABLE, "system turns only"),
]


@pytest.mark.parametrize(("good", "bad", "status", "reason"), [c[1:] for c in BAD_ROWS], ids=[c[0] for c in BAD_ROWS])
def test_bad_row(write, good, bad, status, reason):
    file = DataFile(write(good, bad, good))
    with pytest.raises(DataError) as caught:
        scan(file, on_error="fail")
    message = str(caught.value)
    assert message.startswith(f"{file.path} line 2: ")
    assert reason in message
    assert message.endswith(". Fix the row, or give --on-error skip to leave such rows out.")
    assert message.isprintable()  # one line, and nothing a terminal would obey
    found = scan(file, on_error="skip")
    assert found.status.tolist() == [RowStatus.OK, status, RowStatus.OK]
    assert (found.n, found.n_bad, found.bad[0].index, list(found.row_ids)[1]) == (3, 1, 1, "")


def test_repeated_id_is_bad(write):
    file = DataFile(write(GOOD | {"id": "x"}, GOOD | {"id": "y"}, GOOD | {"id": "x"}))
    with pytest.raises(DataError, match="line 3: the id 'x' stands already in line 1"):
        scan(file, on_error="fail")
    assert scan(file, on_error="skip").status.tolist() == [0, 0, RowStatus.UNREADABLE]


def test_all_bad_rows_are_told_in_one_line(write):
    file = DataFile(write(GOOD, *["{"] * 30))
    with pytest.raises(DataError, match=r", and 29 more rows: lines 3, 4, 5, 6, 7, \.\.\.\. Fix"):
        scan(file, on_error="fail")
    found = scan(file, on_error="skip")
    assert (len(found.bad), found.n_bad) == (20, 30)
    with pytest.raises(DataError, match=r"and 1 more row: line 3\. Fix"):
        scan(DataFile(write(GOOD, "{", "{")), on_error="fail")


BAD_FILES = [
    ("absent.jsonl", None, UsageError, "does not exist. Give a file (.jsonl, .ndjson, .json, .csv, .tsv (also with"),
    (
        "data.pickle",
        b"PAR1",
        UsageError,
        "is not of a type that can be read. Give a file: .jsonl, ",
    ),
    ("data", b"{}", UsageError, "is not of a type that can be read"),
    ("data.jsonl", b"", DataError, "data.jsonl has no rows. Give a file with rows."),
    ("data.json", b"[]", DataError, "data.json has no rows. Give a file with rows."),
    ("data.csv", b"prompt,completion\n", DataError, "data.csv has no rows. Give a file with rows."),
    ("data.jsonl", b"\n \r\n", DataError, "has no rows"),
    ("data.jsonl.gz", gzip.compress(b""), DataError, "has no rows"),
    ("data.jsonl", b"\xef\xbb\xbf\n", DataError, "has no rows"),
    (
        "data.jsonl",
        b"{\n{\n",
        DataError,
        "has no row that can be used: line 1: not JSON: Expecting property name",
    ),
    ("data.jsonl", b"[\n{}]\n", DataError, "has no row that can be used: line 1: not JSON"),
    (
        "data.jsonl",
        b'{"prompt": 1, "completion": 2}',
        DataError,
        "has no row that can be used: line 1: the column",
    ),
    (
        "data.jsonl",
        b'{"q": 1, "a": 2}',
        DataError,
        "line 1 fits no schema: it has q, a; messages needs messages;",
    ),
    (
        "data.jsonl",
        b'{"q": 1}',
        DataError,
        "prompt/completion needs prompt and completion; ",
    ),
    ("data.jsonl", b'{"\\u001b[31m\\n": 1}', DataError, r"it has '\x1b[31m\n'; messages"),
    (
        "data.jsonl",
        '{"prompt"'.encode("utf-16"),
        DataError,
        "is in UTF-16, and rows are read as UTF-8. Convert it: iconv",
    ),
    ("data.jsonl.gz", b'{"prompt"', DataError, "is not a complete gzip file: it breaks off after line 0"),
    ("data.jsonl", gzip.compress(b"{}"), DataError, "line 1: not UTF-8: byte 0x8b at position 1"),
]


@pytest.mark.parametrize("case", BAD_FILES, ids=lambda case: case[3][:30])
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_bad_file(tmp_path, case, on_error):
    name, data, error, reason = case
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(error) as caught:
        scan(DataFile(path), on_error=on_error)
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_folder_and_pipe_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"has no data file in it\. Give files"):
        DataFile(tmp_path)
    with pytest.raises(UsageError, match="is not a regular file"):
        DataFile("/dev/null")


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_truncated_gzip_says_how_far_it_read(tmp_path, on_error):
    lines = b"".join(json.dumps(GOOD | {"id": i}).encode() + b"\n" for i in range(2000))
    data = gzip.compress(lines)
    path = tmp_path / "data.jsonl.gz"
    for damaged in (data[: len(data) // 2], data[:-20] + bytes(20)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"breaks off after line \d+ .*Make or copy the file again"):
            scan(DataFile(path), on_error=on_error)


def test_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "data.JSONL"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + json.dumps(GOOD).encode())
    assert [row.line for row in DataFile(path).rows()] == [1, 3]


def test_ten_megabyte_line_is_a_row(write):
    (row,) = DataFile(write({"prompt": "é" * 5_000_000, "completion": "A"}, name="data.jsonl.gz")).rows()
    assert isinstance(row, Row)
    assert len(row.messages[0].content) == 5_000_000


def test_a_line_over_the_limit_is_a_bad_row_and_the_next_is_read(write, monkeypatch):
    monkeypatch.setattr(jsonl_module, "MAX_LINE_BYTES", 2**20)
    long = json.dumps(GOOD | {"x": "x" * 3 * 2**20})
    found = scan(DataFile(write(GOOD, long, GOOD)), on_error="skip")
    assert found.status.tolist() == [0, RowStatus.UNREADABLE, 0]
    assert (found.bad[0].line, found.bad[0].reason) == (2, "longer than 1 MiB")


def test_rows_stream(write):
    """Reading 5,000 rows of 10 kB takes no more memory than reading 500."""
    peaks = []
    for n in (500, 5_000):
        file = DataFile(write(*[GOOD | {"x": "x" * 10_000}] * n, name="data.jsonl.gz"))
        tracemalloc.start()
        assert sum(1 for _ in file.rows()) == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_digest_is_of_the_content(write):
    row = {"id": "1", "source": "s", "prompt": "Q", "completion": "é", "note": "not what a model sees"}
    digest = scan(DataFile(write(row)), on_error="fail").digest
    assert len(digest) == 64
    same = [
        write(dict(reversed(row.items())), name="order.jsonl"),
        write(json.dumps(row, ensure_ascii=False, indent=None, separators=(" , ", " : ")), name="form.jsonl"),
        write("", row, name="blank.jsonl.gz"),
        write(row | {"note": 1}, name="note.jsonl"),
        write(
            {"row_id": 1, "dataset": "s", "messages": [USER, {"role": "assistant", "content": "é"}]},
            name="columns.jsonl",
        ),
    ]
    assert {scan(DataFile(path), on_error="fail").digest for path in same} == {digest}
    for change in ({"id": "2"}, {"source": "t"}, {"prompt": "Q "}, {"completion": "e"}):
        assert scan(DataFile(write(row | change)), on_error="fail").digest != digest
    assert scan(DataFile(write(row, row | {"id": "2"})), on_error="fail").digest != digest


def test_digest_covers_bad_rows(write):
    digests = {scan(DataFile(write(GOOD, bad)), on_error="skip").digest for bad in ("{", "}", {"prompt": "Q"})}
    assert len(digests) == 3


@given(rows=st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1), st.text()), min_size=1, max_size=5))
def test_whatever_json_holds_is_read_back_or_refused_with_a_reason(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    lines = [{"prompt": f"Q{prompt}", "completion": f"A{completion}", "source": s} for prompt, completion, s in rows]
    lines.insert(0, GOOD)  # a file without a usable row has another test
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line, row in zip(lines, DataFile(path).rows(), strict=True):
        if isinstance(row, BadRow):
            assert any("\0" in value for value in line.values())
        else:
            assert row.raw == line
            assert [message.content for message in row.messages] == [line["prompt"], line["completion"]]


@given(indices=st.lists(st.integers(0, 9)))
def test_pick_gives_each_row_once_in_order(tmp_path_factory, indices):
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_text("".join(json.dumps(GOOD | {"id": i}) + "\n\n" for i in range(10)))
    assert [row.row_id for row in pick(DataFile(path), indices)] == [str(i) for i in sorted(set(indices))]


def test_pick_refuses_what_is_not_there(write):
    file = DataFile(write(GOOD, "{", GOOD))
    with pytest.raises(DataError, match=r"has 3 rows, and row 5 .* was asked for: it is not the file"):
        list(pick(file, np.array([0, 5])))
    with pytest.raises(DataError, match="line 2 can't be used: not JSON"):
        list(pick(file, [1]))
    with pytest.raises(IndexError):
        list(pick(file, [-1]))


def test_file_that_vanishes_or_is_forbidden_is_told_without_a_traceback(write, monkeypatch):
    file = DataFile(write(GOOD))
    file.path.unlink()
    with pytest.raises(UsageError, match="can't be read: No such file or directory"):
        list(file.rows())


def test_detection_gives_up_after_a_while(write, monkeypatch):
    monkeypatch.setattr(files_module, "_DETECT_ROWS", 3)
    assert DataFile(write({"x": 1}, {"x": 1}, GOOD)).schema.name == "prompt/completion"
    with pytest.raises(DataError, match="line 1 fits no schema"):
        _ = DataFile(write({"x": 1}, {"x": 1}, {"x": 1}, GOOD)).schema


def test_importing_the_package_loads_no_heavy_library():
    import subprocess
    import sys

    code = "import sys, ntkcli.data; print([m for m in ('torch', 'transformers', 'zarr') if m in sys.modules])"
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
