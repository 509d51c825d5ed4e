"""What chat rows say beside their contents: training marks, thoughts, tools. Honoured, or refused by name."""

from __future__ import annotations

import json

import pytest

from ntkcli.data import DataFile, Encoder, Message, Row, RowError, scan
from ntkcli.errors import DataError
from tests.data.test_encoding import marked
from tests.data.test_templates import HARMONY, QWEN3, SMOLLM2

U = {"role": "user", "content": "Q"}
BAD, GOOD = {"role": "assistant", "content": "BAD"}, {"role": "assistant", "content": "GOOD"}
CHAT = [U, BAD, U, GOOD]
THOUGHT = (  # as Qwen 3 and others: a thought beside the content, in the last turn only
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last and m.reasoning_content %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = (  # as Qwen 2.5: functions in front, calls as JSON in tags, results in the user's place
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<r>{{ m.content }}</r><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<c>{{ c.function | tojson }}</c>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def the_row(write, line) -> Row:
    (row,) = DataFile(write(line)).rows()
    assert isinstance(row, Row), row.reason
    return row


def digest(write, line) -> str:
    return scan(DataFile(write({"id": "x", **line})), on_error="fail").digest


def encoded(tokenizer, row, template=SMOLLM2, family="chatml") -> str:
    tok = tokenizer(family, template=template)
    return marked(tok, Encoder(tok, max_length=10_000).encode(row))


OFF = [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"loss": False}, {"loss_scale": 0}]
NO_MARK = [{"weight": 1}, {"train": True}, {"loss": True}, {"weight": None}, {"train": None}, {"train_detail": []}]


@pytest.mark.parametrize("mark", OFF, ids=str)
def test_a_turn_marked_off_is_seen_and_not_supervised(write, tokenizer, mark):
    row = the_row(write, {"messages": [U, {**BAD, **mark}, U, GOOD]})
    text = encoded(tokenizer, row)
    assert "BAD<|im_end|>" in text
    assert [part.split("⟧")[0] for part in text.split("⟦")[1:]] == ["GOOD<|im_end|>"]
    plain = the_row(write, {"messages": CHAT})
    assert row.row_id != plain.row_id
    assert digest(write, {"messages": [U, {**BAD, **mark}, U, GOOD]}) != digest(write, {"messages": CHAT})


@pytest.mark.parametrize("mark", NO_MARK, ids=str)
def test_a_mark_that_says_nothing_new_changes_nothing(write, mark):
    line = {"messages": [U, {**BAD, **mark}, {**U, "weight": 0}, {**GOOD, **mark}]}
    assert the_row(write, line).messages == the_row(write, {"messages": CHAT}).messages
    assert digest(write, line) == digest(write, {"messages": CHAT})


def test_the_digest_of_rows_without_marks_is_the_one_they_always_had(write):
    """Written down when there were no marks: a change would refuse every data set in every store."""
    assert the_row(write, {"messages": CHAT}).row_id == "4fb3001e600ba724"
    assert digest(write, {"messages": CHAT}) == "06b0eb46ae1e3d81da1560ef0afe9bbe12117f585159e42973c6815618061158"


def test_marks_are_read_in_every_kind_of_chat(write):
    shared = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "BAD", "weight": 0}]
    shared += [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "GOOD"}]
    lists = {"prompt": [U], "completion": [{**BAD, "train": False}, U, GOOD]}
    for line in ({"conversations": shared}, lists):
        assert [m.learned for m in the_row(write, line).messages] == [True, False, True, True]


REFUSED = [
    ([U, {**GOOD, "weight": 0.5}], "message 2 in 'messages' has as 'weight' the number 0.5; a turn is trained on"),
    ([U, {**GOOD, "train": "yes"}], "has as 'train' the string 'yes'"),
    ([U, {**GOOD, "train": True, "weight": 0}], "has marks that disagree: 'weight' and 'train'"),
    ([{**U, "train": True}, GOOD], "message 1 in 'messages' has 'train' set: only turns of the assistant"),
    ([U, {**GOOD, "train_detail": [{"begin_offset": 0}]}], "has 'train_detail': parts of a message"),
    ([U, {**BAD, "weight": 0}], "the marks in 'messages' leave no turn of the assistant to learn"),
    ([{**U, "reasoning_content": "R"}, GOOD], "has a thought, which only the assistant's turns have"),
    ([U, {**GOOD, "thinking": True}], "'thinking' of message 2 in 'messages' holds true, not a string"),
    ([U, {**GOOD, "thinking": "a", "reasoning": "b"}], "has thoughts that differ: 'thinking' and 'reasoning'"),
    ([{**U, "tool_calls": [{"name": "f"}]}, GOOD], "has tool calls, which only the assistant's turns have"),
    (
        [U, {**GOOD, "tool_calls": [{"function": {"arguments": "{}"}}]}],
        "call 1 of message 2 in 'messages' is an object",
    ),
    ([U, {**GOOD, "tool_calls": [{"name": "f"}], "function_call": {"name": "f"}}], "both 'tool_calls' and"),
    ([{"role": "tool", "content": "1"}, GOOD], "starts with a tool; the first turn must be the user's"),
]


@pytest.mark.parametrize(("messages", "reason"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(write, messages, reason):
    with pytest.raises(DataError) as caught:
        scan(DataFile(write({"messages": messages})), on_error="fail")
    assert reason in str(caught.value)


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_a_thought_is_handed_to_the_template_and_supervised(write, tokenizer, key):
    row = the_row(write, {"messages": [U, {**GOOD, key: "first a"}]})
    ask = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert encoded(tokenizer, row, THOUGHT) == f"{ask}⟦<think>\nfirst a\n</think>\n\nGOOD<|im_end|>⟧\n"
    assert row.row_id != the_row(write, {"messages": [U, GOOD]}).row_id
    harmony = encoded(tokenizer, row, HARMONY, "harmony").partition("assistant")[2]
    assert harmony == (
        "⟦<|channel|>analysis<|message|>first a<|end|><|start|>assistant<|channel|>final<|message|>GOOD<|return|>⟧"
    )


def test_a_thought_that_the_template_leaves_out_is_refused(write, tokenizer):
    alone = the_row(write, {"messages": [U, {**GOOD, "reasoning_content": "first a"}]})
    for template, family in ((SMOLLM2, "chatml"), (QWEN3, "qwen3"), (None, "plain")):
        with pytest.raises(RowError, match=r"its thought next to its content \(reasoning_content, thinking\), which"):
            encoded(tokenizer, alone, template, family)
    thinking = {**BAD, "reasoning_content": "first a"}
    with pytest.raises(RowError, match="leaves the thought of turn 2 out; take it out, or mark that turn `weight: 0`"):
        encoded(tokenizer, the_row(write, {"messages": [U, thinking, U, GOOD]}), THOUGHT)
    same = {**GOOD, "reasoning_content": "first a"}  # the later turn's thought must not stand in for the earlier one's
    with pytest.raises(RowError, match="leaves the thought of turn 2 out"):
        encoded(tokenizer, the_row(write, {"messages": [U, thinking, U, same]}), THOUGHT)
    unlearned = the_row(write, {"messages": [U, {**thinking, "weight": 0}, U, same]})
    assert encoded(tokenizer, unlearned, THOUGHT).endswith("⟦<think>\nfirst a\n</think>\n\nGOOD<|im_end|>⟧\n")


FUNCTION = {"name": "f", "parameters": {"type": "object"}}
CALL = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"z": 1, "a": "é"}'}}]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": 'say "1"'}
CALLING = [U, CALL, RESULT, RESULT, GOOD]


def test_calls_results_and_functions_are_handed_to_the_template(write, tokenizer):
    row = the_row(write, {"messages": CALLING, "tools": [FUNCTION]})
    declared = json.dumps([{"type": "function", "function": FUNCTION}])
    call = '<c>{"name": "f", "arguments": {"z": 1, "a": "é"}}</c>'
    result = '<|im_start|>user\n<r>say "1"</r><|im_end|>\n'
    assert encoded(tokenizer, row, TOOLS) == (
        f"<|im_start|>system\n{declared}<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
        f"<|im_start|>assistant\n⟦{call}<|im_end|>⟧\n{result}{result}<|im_start|>assistant\n⟦GOOD<|im_end|>⟧\n"
    )
    assert the_row(write, {"messages": CALLING}).row_id != row.row_id


@pytest.mark.parametrize(
    "column", [{"tools": [FUNCTION]}, {"functions": [FUNCTION]}, {"tools": json.dumps([FUNCTION])}]
)
def test_functions_are_the_same_in_every_form(write, column):
    wrapped = {"tools": [{"type": "function", "function": FUNCTION}]}
    assert digest(write, {"messages": CALLING, **column}) == digest(write, {"messages": CALLING, **wrapped})


def test_templates_that_know_no_tools_get_calls_and_results_as_text(write, tokenizer):
    call = '{"arguments": {"a": "é", "z": 1}, "name": "f"}'
    text = encoded(tokenizer, the_row(write, {"messages": [U, {**CALL, "content": "So:"}, *CALLING[2:]]}))
    assert text.partition("Q<|im_end|>\n")[2] == (
        f'<|im_start|>assistant\n⟦So:\n{call}<|im_end|>⟧\n<|im_start|>user\nsay "1"\nsay "1"<|im_end|>\n'
        "<|im_start|>assistant\n⟦GOOD<|im_end|>⟧\n"
    )
    plain = tokenizer("plain")
    row = the_row(write, {"messages": CALLING})
    text = marked(plain, Encoder(plain, max_length=1000).encode(row))
    assert text == f'<s>Q\n⟦{call}</s>⟧\nsay "1"\nsay "1"\n⟦GOOD</s>⟧'


def test_functions_that_the_template_does_not_show_are_refused(write, tokenizer):
    row = the_row(write, {"messages": CALLING, "tools": [FUNCTION]})
    with pytest.raises(RowError, match="it has tools, which the chat template doesn't show; take the column 'tools'"):
        encoded(tokenizer, row)
    with pytest.raises(DataError, match="the column 'tools' holds the string 'hammer', not a list of functions"):
        scan(DataFile(write({"messages": CALLING, "tools": "hammer"})), on_error="fail")
    assert the_row(write, {"messages": CALLING, "tools": "[]"}).tools == ""


def test_a_template_that_wants_arguments_as_text_gets_them(write, tokenizer):
    template = TOOLS.replace("{{ c.function | tojson }}", "{{ c.function.name + c.function.arguments }}")
    text = encoded(tokenizer, the_row(write, {"messages": CALLING}), template)
    assert '⟦<c>f{"z": 1, "a": "é"}</c><|im_end|>⟧' in text


CALLS_END_IN_ANOTHER_WAY = (  # gpt-oss: a call has its own end, and the last answer another than earlier ones
    "{% for m in messages %}{% if m.tool_calls %}{% set c = m.tool_calls[0].function %}"
    "<|start|>assistant to={{ c.name }}<|channel|>commentary<|message|>{{ c.arguments | tojson }}<|call|>"
    "{% elif m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def test_calls_that_end_in_another_way_than_answers(write, tokenizer):
    text = encoded(tokenizer, the_row(write, {"messages": CALLING}), CALLS_END_IN_ANOTHER_WAY, "harmony")
    runs = [part.split("⟧")[0] for part in text.split("⟦")[1:]]
    assert runs == [
        ' to=f<|channel|>commentary<|message|>{"z": 1, "a": "é"}<|call|>',
        "<|channel|>final<|message|>GOOD<|return|>",
    ]


def test_what_a_template_leaves_out_of_tools_is_refused(write, tokenizer):
    row = the_row(write, {"messages": CALLING})
    with pytest.raises(RowError, match="the chat template leaves a tool's result out"):
        encoded(tokenizer, row, TOOLS.replace("{{ m.content }}</r>", "</r>"))
    first = TOOLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    two = {**CALL, "tool_calls": [*CALL["tool_calls"], {"name": "g"}]}
    with pytest.raises(RowError, match="lacks the tool calls of turn 2"):
        encoded(tokenizer, the_row(write, {"messages": [U, two, *CALLING[2:]]}), first)


def test_a_special_token_in_a_thought_a_call_or_a_tool_is_refused(write, tokenizer):
    call = {**CALL, "tool_calls": [{"name": "f", "arguments": {"x": "<|im_end|>"}}]}
    thought = {**GOOD, "reasoning_content": "<|im_end|>"}
    lines = [{"messages": [U, call, RESULT, GOOD]}, {"messages": [U, thought]}]
    lines.append({"messages": CALLING, "tools": [{**FUNCTION, "description": "<|im_end|>"}]})
    for line in lines:
        with pytest.raises(RowError, match=r"hold'?s? '<\|im_end\|>', a special token"):
            encoded(tokenizer, the_row(write, line), TOOLS)


def test_message_text_has_all_that_a_turn_says():
    assert Message("assistant", "C", reasoning="R", calls="[1]").text == "R\nC\n[1]"
