"""Rows too long are cut at turn boundaries: what stays is what the template makes of the remaining turns, by a loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkcli.data import Encoded, Encoder, Message, Row, RowError
from ntkcli.data.turns import exchanges, shortened
from tests.data.test_encoding import marked, row
from tests.data.test_templates import GEMMA3, PHI4, QWEN3, R1, SMOLLM2

FAMILIES = {  # template, and whether it takes a system turn
    "chatml": (SMOLLM2, True),
    "llama3": (None, True),
    "gemma": (GEMMA3, True),
    "mistral": (None, False),
    "phi": (PHI4, True),
    "qwen3": (QWEN3, True),
    "plain": (None, True),
    "bare": (None, True),
    "r1": (R1, False),
}
NO_LIMIT = 10**6
_TOKENIZERS: dict[str, object] = {}  # hypothesis calls the test many times


def tokenizer_of(family, make):
    template = FAMILIES[family][0]
    if family not in _TOKENIZERS:
        _TOKENIZERS[family] = make(family) if template is None else make(family, template=template)
    return _TOKENIZERS[family]


@st.composite
def chats(draw):
    """A family, a chat of one to five exchanges whose turns all differ, and a maximum length."""
    family = draw(st.sampled_from(list(FAMILIES)))
    sizes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5))
    turns = [Message("system", "S!")] if FAMILIES[family][1] and draw(st.booleans()) else []
    for i, (asked, said) in enumerate(sizes):
        turns += [Message("user", f"q{i}" + "u" * asked), Message("assistant", f"r{i}" + "v" * said)]
    marks = draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    marks[draw(st.integers(0, len(sizes) - 1))] = True
    answers = iter(marks)
    messages = [replace(m, learned=next(answers)) if m.role == "assistant" else m for m in turns]
    return family, Row(0, 1, "x", "", tuple(messages)), draw(st.integers(4, 260))


def by_a_loop(encode, example: Row, limit: int) -> tuple[list[Encoded], int] | None:
    """Whole rows of fewer and fewer exchanges until one fits; what follows the last learned answer goes first."""
    system = [m for m in example.messages if m.role == "system"]
    turns = list(example.messages[len(system) :])
    found = encode(example)
    if max(map(len, found)) <= limit:
        return found, 0
    last = max(i for i, m in enumerate(turns) if m.role == "assistant" and m.learned)
    for start in range(0, last, 2):
        kept = (*system, *turns[start : last + 1])
        found = encode(replace(example, messages=kept))
        if max(map(len, found)) <= limit:
            return found, len(example.messages) - len(kept)
    return None


def same(one: Encoded, other: Encoded) -> bool:
    return one.ids.tolist() == other.ids.tolist() and one.supervised.tolist() == other.supervised.tolist()


@settings(max_examples=100)
@given(chats())
def test_a_long_chat_is_the_rendering_of_its_last_exchanges(tokenizer, given_chat):
    family, example, limit = given_chat
    tok = tokenizer_of(family, tokenizer)
    whole, cut = Encoder(tok, max_length=NO_LIMIT), Encoder(tok, max_length=limit).encode(example)
    expected = by_a_loop(lambda r: [whole.encode(r)], example, limit)
    assert len(cut) <= limit
    assert cut.supervised.any()
    if expected is None:  # one exchange is too long by itself: its learned answer, or the beginning of it, is there
        assert cut.truncated
        text = marked(tok, cut)
        assert text.count("⟦") == 1
        return
    (other,), dropped = expected
    assert same(cut, other)
    assert (cut.truncated, cut.dropped_turns) == (dropped > 0, dropped)
    text = marked(tok, cut)  # each answer that is learned has its question, whole, right before it
    for before, after in zip(example.messages, example.messages[1:], strict=False):
        if after.role == "assistant" and f"⟦{after.content}" in text.replace("⟦<think>\n\n</think>\n\n", "⟦"):
            assert before.content in text.partition(after.content)[0]


@settings(max_examples=50)
@given(chats())
def test_choices_and_prompts_are_cut_at_the_same_places(tokenizer, given_chat):
    family, example, limit = given_chat
    tok = tokenizer_of(family, tokenizer)
    last = replace(example.messages[-1], learned=True)
    choices = (last.content, last.content + "wwww")
    example = replace(example, messages=(*example.messages[:-1], last), choices=choices, answer=0)
    whole, cutter = Encoder(tok, max_length=NO_LIMIT), Encoder(tok, max_length=limit)
    found, expected = cutter.encode_choices(example), by_a_loop(whole.encode_choices, example, limit)
    heads = [one.ids[: np.argmax(one.supervised)].tolist() for one in found]
    assert heads[0] == heads[1]  # likelihoods compare only behind one and the same prompt
    if expected is not None:
        assert all(same(one, other) for one, other in zip(found, expected[0], strict=True))
        assert {one.dropped_turns for one in found} == {expected[1]}
    prompt, expected = cutter.encode_prompt(example), by_a_loop(lambda r: [whole.encode_prompt(r)], example, limit)
    assert len(prompt) <= limit
    if expected is not None:
        assert same(prompt, expected[0][0])
        assert prompt.dropped_turns == expected[1]
    else:
        assert prompt.ids[-3:].tolist() == whole.encode_prompt(example).ids[-3:].tolist()


def test_of_one_exchange_with_several_answers_the_later_ones_go(tokenizer):
    """A call, its result and an answer belong to one question: what is left always has that question before it."""
    tok = tokenizer("plain")
    example = row("u: question", "a: 111", "u: x", "a: 222")
    tools = (*example.messages[:2], Message("tool", "result"), example.messages[3])
    example = replace(example, messages=tools)
    whole = Encoder(tok, max_length=NO_LIMIT).encode(example)
    assert marked(tok, whole) == "<s>question\n⟦111</s>⟧\nresult\n⟦222</s>⟧"
    cut = Encoder(tok, max_length=len(whole) - 1).encode(example)
    assert marked(tok, cut) == "<s>question\n⟦111</s>⟧"
    assert (cut.truncated, cut.dropped_turns) == (True, 2)


def test_turns_behind_the_last_answer_to_learn_go_first(tokenizer):
    tok = tokenizer("plain")
    example = row("u: first", "a: 111", "u: second")
    whole = Encoder(tok, max_length=NO_LIMIT).encode(example)
    cut = Encoder(tok, max_length=len(whole) - 1).encode(example)
    assert marked(tok, cut) == "<s>first\n⟦111</s>⟧"


def test_a_question_in_several_turns_is_kept_whole():
    messages = row("s: S", "u: a", "u: b", "a: x", "s: new rules", "u: c", "a: y").messages
    assert exchanges(messages) == [1, 4]
    assert shortened(messages, [3, 6]) == [(0, 1, 2, 3, 4, 5, 6), (0, 4, 5, 6)]
    assert shortened(messages, [3]) == [(0, 1, 2, 3, 4, 5, 6), (0, 1, 2, 3)]
    assert shortened(messages, []) == [(0, 1, 2, 3, 4, 5, 6)]


TOKENS, LABELS = (5, 6, 7, 8, 9, 10, 11), (-100, 6, -100, -100, 9, -100, -100)


@pytest.mark.parametrize(
    ("limit", "expected", "dropped"),
    [
        (7, [5, 6, 7, 8, 9, 10, 11], 0),
        (6, [5, 6, 7, 8, 9], 0),  # what follows the last answer
        (4, [7, 8, 9], 2),  # the first prompt and its answer
        (3, [7, 8, 9], 2),
    ],
)
def test_rows_of_tokens_lose_whole_prompts_with_their_answers(tokenizer, limit, expected, dropped):
    example = Row(0, 1, "x", "", (), tokens=TOKENS, labels=LABELS)
    cut = Encoder(tokenizer("plain"), max_length=limit).encode(example)
    assert cut.ids.tolist() == expected
    assert [token for token, on in zip(cut.ids, cut.supervised, strict=True) if on] == [
        token for token in (6, 9) if token in expected
    ]
    assert (cut.truncated, cut.dropped_turns) == (limit < 7, dropped)


def test_a_prompt_without_an_answer_to_compare_with_is_refused(tokenizer):
    encoder, example = Encoder(tokenizer("plain"), max_length=100), row("u: Hi", "a: yes")
    unlearned = replace(example, messages=(example.messages[0], replace(example.messages[1], learned=False)))
    with pytest.raises(RowError, match="marked as not to be learned"):
        encoder.encode_prompt(unlearned)
