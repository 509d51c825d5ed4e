"""Schemas beside the first three: what each row becomes, how columns are mapped, and what is refused."""

from __future__ import annotations

import json

import pytest

from ntkcli.data import DataFile, Encoder, Message, Row, RowError, scan
from ntkcli.errors import DataError, UsageError
from ntkcli.options import parse_columns

USER, ASSISTANT = Message("user", "Q"), Message("assistant", "A")
SYSTEM = Message("system", "S")
TURNS = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
CALLS = '[{"name":"f","arguments":{"x":1}}]'
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}
U, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}

GOOD = [
    ({"conversations": TURNS}, "conversations", (USER, ASSISTANT)),
    ({"conversations": TURNS, "system": "S"}, "conversations", (SYSTEM, USER, ASSISTANT)),
    (
        {"conversations": [{"from": "system", "value": "S"}, *TURNS], "system": ""},
        "conversations",
        (SYSTEM, USER, ASSISTANT),
    ),
    ({"conversations": [U, A]}, "conversations", (USER, ASSISTANT)),
    ({"messages": TURNS}, "messages", (USER, ASSISTANT)),
    ({"messages": [{"role": "developer", "content": "S"}, U, A]}, "messages", (SYSTEM, USER, ASSISTANT)),
    ({"messages": [U | {"content": [{"type": "text", "text": "Q"}]}, A]}, "messages", (USER, ASSISTANT)),
    (
        {"messages": [U, CALL, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, A]},
        "messages",
        (USER, Message("assistant", "", calls=CALLS), Message("tool", "1"), Message("tool", "2"), ASSISTANT),
    ),
    (
        {
            "conversations": [
                {"from": "human", "value": "Q"},
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "A"},
            ]
        },
        "conversations",
        (USER, Message("assistant", "", calls=CALLS), Message("tool", "1"), ASSISTANT),
    ),
    ({"prompt": [U], "completion": [A]}, "prompt/completion", (USER, ASSISTANT)),
    ({"instruction": "Q", "output": "A"}, "instruction/output", (USER, ASSISTANT)),
    (
        {"instruction": "Q", "input": "", "output": "A", "system": "", "history": []},
        "instruction/output",
        (USER, ASSISTANT),
    ),
    (
        {"instruction": "I", "input": "x", "output": "A", "system": "S", "history": [["Q", "A"]]},
        "instruction/output",
        (SYSTEM, USER, ASSISTANT, Message("user", "I\nx"), ASSISTANT),
    ),
    ({"question": "Q", "answer": "A"}, "question/answer", (USER, ASSISTANT)),
    ({"question": "Q", "choices": ["x", "A"], "answer": 1}, "question/choices/answer", (USER, ASSISTANT)),
    (
        {"source": "Q", "rationale": "Because. ", "target": "A"},
        "source/rationale/target",
        (USER, Message("assistant", "Because.\nSo the answer is A")),
    ),
    ({"text": "Q"}, "text", (USER,)),
]


@pytest.mark.parametrize(("line", "schema", "messages"), GOOD)
def test_schema(write, line, schema, messages):
    file = DataFile(write(line))
    (row,) = file.rows()
    assert isinstance(row, Row)
    assert file.schema.name == schema
    assert row.messages == messages
    assert row.raw == line


def test_the_prompt_of_a_chain_of_thought_is_no_label(write):
    row = {"source": "Q", "rationale": "R", "target": "A", "task": "t"}
    assert scan(DataFile(write(row)), on_error="fail").sources == ["t"]


BAD = [
    ({"conversations": []}, "the column 'conversations' is an empty list"),
    ({"conversations": TURNS[::-1]}, "the column 'conversations' starts with the assistant"),
    ({"conversations": [{"from": "alien", "value": "Q"}]}, "has as role the string 'alien'"),
    ({"conversations": [{"from": "human"}]}, "message 1 in 'conversations' has no 'value'"),
    ({"conversations": TURNS, "system": 3}, "the column 'system' holds the number 3"),
    ({"messages": [U | {"content": [{"type": "image_url"}]}]}, "message 1 in 'messages' has a part that is not text"),
    ({"messages": [U, A | {"content": None}]}, "the content of message 2 in 'messages' holds null"),
    ({"messages": [U, {"role": "tool", "content": ""}]}, "the content of message 2 in 'messages' is empty"),
    ({"prompt": [U], "completion": "A"}, "the column 'prompt' holds a list, not a string"),
    ({"prompt": [U], "completion": [U]}, "the column 'completion' has no assistant turn"),
    ({"prompt": [A], "completion": [A]}, "the column 'prompt' starts with the assistant"),
    ({"instruction": "", "output": "A"}, "the column 'instruction' is empty"),
    ({"instruction": "Q", "output": ""}, "the column 'output' is empty"),
    ({"instruction": "Q", "input": 1, "output": "A"}, "the column 'input' holds the number 1"),
    ({"instruction": "Q", "output": "A", "history": [["Q"]]}, "item 1 in 'history' is a list, not a pair"),
    ({"instruction": "Q", "output": "A", "history": [["Q", None]]}, "item 1 in 'history' holds null"),
    ({"instruction": "Q", "output": "A", "history": "x"}, "the column 'history' holds the string 'x', not a list"),
    ({"source": "Q", "rationale": "", "target": "A"}, "the column 'rationale' is empty"),
    ({"question": ["Q"], "answer": "A"}, "the column 'question' holds a list"),
    ({"text": " "}, "the column 'text' is empty"),
    ({"input_ids": [1, 2], "labels": [1]}, "the column 'labels' has 1 items, and 'input_ids' has 2"),
    ({"input_ids": [1, 2], "labels": [-100, 3]}, "item 1 in 'labels' is 3, not -100 or the token 2"),
    ({"input_ids": [1], "labels": [1]}, "has 1 tokens: nothing to predict"),
    ({"input_ids": [1, "2"], "labels": [1, 2]}, "item 1 in 'input_ids' is the string '2', not an integer"),
    ({"input_ids": [1, True], "labels": [1, 1]}, "item 1 in 'input_ids' is true, not an integer"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_bad_row(write, line, reason):
    with pytest.raises(DataError) as caught:
        scan(DataFile(write(line)), on_error="skip")
    assert "line 1: " in str(caught.value)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_only_the_completion_of_message_lists_is_supervised(write, tokenizer):
    tok = tokenizer("chatml")
    (row,) = DataFile(write({"prompt": [U, A, U], "completion": [A | {"content": "B"}]})).rows()
    encoded = Encoder(tok, max_length=1000).encode(row)
    assert tok.decode(encoded.ids[encoded.supervised]) == "B<|im_end|>"
    (whole,) = DataFile(write({"messages": [U, A, U, A | {"content": "B"}]})).rows()
    assert whole.row_id != row.row_id


def test_tokens_are_taken_as_they_are(write, tokenizer):
    tok = tokenizer("plain")
    line = {"input_ids": [5, 6, 7, 8], "labels": [5, -100, 7, 8]}
    (row,) = DataFile(write(line)).rows()
    encoded = Encoder(tok, max_length=10).encode(row)
    assert encoded.ids.tolist() == line["input_ids"]
    assert encoded.supervised.tolist() == [False, False, True, True]  # nothing predicts the first token
    cut = Encoder(tok, max_length=3).encode(row)
    assert (cut.ids.tolist(), cut.truncated) == ([6, 7, 8], True)
    (foreign,) = DataFile(write({"input_ids": [1, 10**6], "labels": [-100, 10**6]})).rows()
    with pytest.raises(RowError, match=r"the token 1000000 is not one of the tokenizer's \d+"):
        Encoder(tok, max_length=10).encode(foreign)


MAPPED = [
    ({"q": "Q", "a": "A"}, "prompt=q,completion=a", "prompt/completion"),
    ({"question": "Q", "answer": "A", "choices": {"x": 1}}, "prompt=question, completion=answer", "prompt/completion"),
    ({"prompt": "other", "completion": "other", "q": "Q", "a": "A"}, "question=q,answer=a", "question/answer"),
    (
        {"q": {"stem": "Q", "c": ["x", "A"]}, "key": "B"},
        "prompt=q.stem,choices=q.c,answer=key",
        "prompt/choices/answer",
    ),
    ({"dialogue": TURNS}, "conversations=dialogue", "conversations"),
    ({"uid": 7, "origin": "o", "prompt": "Q", "completion": "A"}, "id=uid,source=origin", "prompt/completion"),
]


@pytest.mark.parametrize(("line", "columns", "schema"), MAPPED)
def test_columns(write, line, columns, schema):
    file = DataFile(write(line), columns=parse_columns(columns))
    (row,) = file.rows()
    assert file.schema.name == schema
    assert row.messages == (USER, ASSISTANT)
    assert row.raw == line  # an export keeps the file's own columns
    if "uid" in line:
        assert (row.row_id, row.source) == ("7", "o")


def test_mapped_rows_have_the_digest_of_the_known_columns(write):
    own = DataFile(write({"uid": 7, "q": "Q", "a": "A"}), columns={"id": "uid", "prompt": "q", "completion": "a"})
    digest = scan(own, on_error="fail").digest
    assert scan(DataFile(write({"id": "7", "prompt": "Q", "completion": "A"})), on_error="fail").digest == digest


def test_a_repeated_mapped_id_is_bad(write):
    file = DataFile(write(*[{"uid": 7, "text": "Q"}] * 2), columns={"id": "uid"})
    with pytest.raises(DataError, match="line 2: the id '7' stands already in line 1"):
        scan(file, on_error="fail")


@pytest.mark.parametrize("text", ["prompt", "prompt=", "=q", "a=b,a=c", ""])
def test_columns_of_another_form(text):
    with pytest.raises(UsageError, match="--columns"):
        parse_columns(text)


def test_columns_that_are_not_there(write):
    with pytest.raises(UsageError, match=r"--columns promt=q: no schema has a column 'promt'\. Known are: answer"):
        DataFile(write({"q": "Q"}), columns={"promt": "q"})
    with pytest.raises(DataError, match="it has q, a and not 'x' as --columns says"):
        _ = DataFile(write({"q": "Q", "a": "A"}), columns={"prompt": "q", "completion": "x"}).schema
    path = write({"q": "Q", "a": "A"}, {"q": "Q"})
    with pytest.raises(DataError, match=r"line 2: the column 'a' \(completion\) is missing"):
        scan(DataFile(path, columns={"prompt": "q", "completion": "a"}), on_error="fail")


def test_a_cell_that_is_a_list_is_read_in_every_list_column(tmp_path):
    path = tmp_path / "d.csv"
    cell = json.dumps(TURNS).replace('"', '""')
    path.write_text(f'conversations\n"{cell}"\n')
    (row,) = DataFile(path).rows()
    assert row.messages == (USER, ASSISTANT)
