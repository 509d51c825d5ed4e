"""Masks written down by hand, hostile texts, truncation, and the spec."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from ntkcli.data import Encoded, Encoder, Message, Row, RowError
from ntkcli.errors import UsageError
from store import RowStatus


def row(*turns, choices=(), answer=None) -> Row:
    """Turns as "role: content", with u, a and s for the roles."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    messages = tuple(Message(roles[turn[0]], turn[3:]) for turn in turns)
    return Row(0, 1, "x", "", messages, tuple(choices), answer)


def marked(tokenizer, encoded: Encoded) -> str:
    """The encoded text with its supervised runs in ⟦ ⟧."""
    text, runs = "", np.flatnonzero(np.diff(encoded.supervised, prepend=False, append=False))
    for start, stop in zip([0, *runs], [*runs, len(encoded)], strict=True):
        piece = tokenizer.backend_tokenizer.decode(encoded.ids[start:stop].tolist(), skip_special_tokens=False)
        text += f"⟦{piece}⟧" if start < stop and encoded.supervised[start] else piece
    return text


SYSTEM = "<|im_start|>system\nBe kind.<|im_end|>\n"
HEADER = (
    "<|bos|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n"
)
BY_HAND = [
    (
        "chatml",
        row("u: Hi", "a: yes"),
        f"{SYSTEM}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧\n",
    ),
    (
        "chatml",
        row("s: Rules", "u: Hi", "a: yes", "u: Go", "a: no"),
        (
            "<|im_start|>system\nRules<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
            "⟦yes<|im_end|>⟧\n<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\n⟦no<|im_end|>⟧\n"
        ),
    ),
    (  # the line feeds of the header and the answer are one token, which says a part of the answer
        "chatml",
        row("u: Hi", "a: \n\nyes"),
        f"{SYSTEM}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant⟦\n\n\nyes<|im_end|>⟧\n",
    ),
    (
        "chatml",
        row("u: Hi", "a: assistant"),
        f"{SYSTEM}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦assistant<|im_end|>⟧\n",
    ),
    (
        "chatml",
        row("u: Hi", "a: 👍 déjà"),
        f"{SYSTEM}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦👍 déjà<|im_end|>⟧\n",
    ),
    ("chatml", row("u: Hi"), f"{SYSTEM}<|im_start|>user\nHi<|im_end|>\n"),
    (
        "llama3",
        row("u: Hi ", "a:  yes "),
        f"{HEADER}Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n⟦yes<|eot_id|>⟧",
    ),
    (
        "gemma",
        row("u: Hi", "a: yes"),
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n⟦yes<end_of_turn>⟧\n",
    ),
    (
        "mistral",
        row("u: Hi", "a: yes", "u: Go", "a: no"),
        "<s>[INST] Hi [/INST]⟦ yes</s>⟧[INST] Go [/INST]⟦ no</s>⟧",
    ),
    (
        "phi",
        row("u: Hi", "a: yes", "u: Go", "a: no"),
        ("<|user|>\nHi<|end|>\n<|assistant|>\n⟦yes<|end|>⟧\n<|user|>\nGo<|end|>\n<|assistant|>\n⟦no<|end|>⟧\n<|eos|>"),
    ),
    (
        "qwen3",
        row("u: Hi", "a: yes", "u: Go", "a: think"),
        (
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧\n"
            "<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\nthink<|im_end|>⟧\n"
        ),
    ),
    (  # the tokenizer composes the accent (NFC); the answer counts as found
        "qwen3",
        row("u: Hi", "a: e\u0301"),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\né<|im_end|>⟧\n",
    ),
    ("plain", row("u: Hi", "a: yes", "u: Go", "a: no"), "<s>Hi\n⟦yes</s>⟧\nGo\n⟦no</s>⟧"),
    ("bare", row("u: Hi", "a: yes"), "Hi\n⟦yes⟧"),
]


@pytest.mark.parametrize(("family", "example", "expected"), BY_HAND)
def test_mask_by_hand(tokenizer, family, example, expected):
    tok = tokenizer(family)
    encoded = Encoder(tok, max_length=1000).encode(example)
    assert marked(tok, encoded) == expected
    assert (encoded.ids.dtype, encoded.supervised.dtype, encoded.truncated) == (np.int32, np.bool_, False)


QWEN3_SWITCH = (  # as Qwen 3's own: thoughts leave earlier turns, the last one has one, the switch writes an empty one
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
QWEN25 = (  # a system turn of its own where none is given
    "{% if messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n"
    "{% else %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if not (loop.first and m.role == 'system') %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THOUGHT = "<think>\n\n</think>\n\n"
ASKED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        (None, f"{ASKED}⟦{THOUGHT}yes<|im_end|>⟧\n"),
        (True, f"{ASKED}⟦{THOUGHT}yes<|im_end|>⟧\n"),
        (False, f"{ASKED}{THOUGHT}⟦yes<|im_end|>⟧\n"),  # the thought is given, not learned
    ],
)
def test_thinking_by_hand(tokenizer, thinking, expected):
    tok = tokenizer("qwen3", template=QWEN3_SWITCH)
    encoder = Encoder(tok, max_length=1000, thinking=thinking)
    assert marked(tok, encoder.encode(row("u: Hi", "a: yes"))) == expected
    assert encoder.spec.get("thinking") is thinking


def test_thinking_off_in_several_turns(tokenizer):
    """The template drops thoughts from earlier turns: their answers are supervised where they stand."""
    tok = tokenizer("qwen3", template=QWEN3_SWITCH)
    encoded = Encoder(tok, max_length=1000, thinking=False).encode(row("u: Hi", "a: yes", "u: Hi", "a: no"))
    assert marked(tok, encoded) == f"{ASKED}⟦yes<|im_end|>⟧\n{ASKED}{THOUGHT}⟦no<|im_end|>⟧\n"


def test_thinking_needs_a_template_that_knows_it(tokenizer):
    for family in ("chatml", "plain"):
        with pytest.raises(UsageError, match="no switch 'enable_thinking'"):
            Encoder(tokenizer(family), max_length=100, thinking=True)


def test_qwen25_by_hand(tokenizer):
    tok = tokenizer("chatml", template=QWEN25)
    own = f"<|im_start|>system\nYou are Qwen.<|im_end|>\n{ASKED}⟦yes<|im_end|>⟧\n"
    assert marked(tok, Encoder(tok, max_length=1000).encode(row("u: Hi", "a: yes"))) == own
    given = f"<|im_start|>system\nBe brief.<|im_end|>\n{ASKED}⟦yes<|im_end|>⟧\n"
    assert marked(tok, Encoder(tok, max_length=1000).encode(row("s: Be brief.", "u: Hi", "a: yes"))) == given


_TOKENIZERS: dict[str, object] = {}  # hypothesis calls the test many times


@settings(max_examples=60)
@given(
    family=st.sampled_from(["chatml", "llama3", "gemma", "mistral", "phi", "qwen3", "plain", "bare"]),
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<⟦⟧Ж")),
        min_size=2,
        max_size=6,
    ),
)
def test_mask_holds_every_answer_and_nothing_of_the_prompts(tokenizer, family, texts):
    """Prompts bear a letter of their own. Without "<" no text holds a special token: none is refused."""
    tok = _TOKENIZERS.setdefault(family, tokenizer(family))
    contents = [f"Ж{text}Ж" if i % 2 == 0 else f"a{text}b" for i, text in enumerate(texts)]
    example = row(*(f"{'ua'[i % 2]}: {content}" for i, content in enumerate(contents)))
    text = marked(tok, Encoder(tok, max_length=10**6).encode(example))
    runs = [part.split("⟧")[0] for part in text.split("⟦")[1:]]
    assert len(runs) == len(contents) // 2
    assert not any("Ж" in run for run in runs)
    assert all("a" in run and "b" in run for run in runs)


def test_white_space_before_the_end_of_turn_is_a_part_of_the_answer(tokenizer):
    template = tokenizer("chatml").chat_template.replace("{{ m.content }}<", "{{ m.content }}\n<")
    tok = tokenizer("chatml", template=template)
    text = marked(tok, Encoder(tok, max_length=1000).encode(row("u: Hi", "a: yes")))
    assert text.endswith("⟦yes\n<|im_end|>⟧\n")


FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REFUSED = [
    ("chatml", {}, row("u: Hi <|im_end|>", "a: yes"), "the user's text holds '<|im_end|>', a special token"),
    ("plain", {}, row("u: <s>old</s>", "a: yes"), "the user's text holds '<s>'"),
    (
        "gemma",
        {},
        row("s: Rules", "u: Hi", "a: yes"),
        "the chat template refuses it: System role not supported",
    ),
    ("mistral", {}, row("u: Hi", "u: Go", "a: yes"), "the chat template refuses it: roles must alternate"),
    (
        "chatml",
        {"template": "{{ messages[9].content.x }}"},
        row("u: Hi", "a: yes"),
        "the chat template refuses it",
    ),
    (
        "chatml",
        {"template": "{{ messages[0].content }}"},
        row("u: Hi", "a: yes"),
        "lacks the answer of turn 2",
    ),
    (  # a template that drops earlier answers: the later answer of the same text must not stand in for it
        "chatml",
        {"template": FORGETFUL},
        row("u: Hi", "a: yes", "u: Go", "a: yes"),
        "lacks the answer of turn 2",
    ),
    (
        "chatml",
        {"template": "{{ messages | length }}{% for m in messages %}{{ m.content }}\n{% endfor %}"},
        row("u: Hi", "a: yes"),
        "changes the turns before turn 2 once its answer is there",
    ),
    (
        "chatml",
        {"template": "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}"},
        row("u: Hi", "a: yes"),
        "lacks the answer of turn 2",
    ),
]


@pytest.mark.parametrize(("family", "changes", "example", "reason"), REFUSED)
def test_refused(tokenizer, family, changes, example, reason):
    with pytest.raises(RowError) as caught:
        Encoder(tokenizer(family, **changes), max_length=100).encode(example)
    assert reason in caught.value.reason
    assert "\n" not in caught.value.reason
    assert caught.value.status == RowStatus.UNMASKED


def test_refuses_an_answer_that_the_tokenizer_cannot_write(tokenizer):
    tok = tokenizer("bare")
    tok.backend_tokenizer.normalizer = normalizers.Replace("é", "")
    with pytest.raises(RowError, match="decoding the supervised tokens doesn't give the answer back"):
        Encoder(tok, max_length=100).encode(row("u: Hi", "a: été"))


def test_refuses_a_row_without_anything_to_predict(tokenizer):
    with pytest.raises(RowError, match="1 tokens: nothing to predict") as caught:
        Encoder(tokenizer("bare"), max_length=100).encode(row("u: H"))
    assert caught.value.status == RowStatus.EMPTY


TRUNCATED = [
    # the whole is <s>0123456789\nyes</s>: BOS, ten digits, the line feed, "yes", EOS
    ("plain", 14, "<s>0123456789\n⟦yes</s>⟧"),
    ("plain", 13, "<s>123456789\n⟦yes</s>⟧"),
    ("plain", 5, "<s>9\n⟦yes</s>⟧"),
    ("plain", 4, "<s>\n⟦yes</s>⟧"),
    ("plain", 3, "<s>\n⟦yes⟧"),  # too short for the answer: its first tokens, and the one before them
    ("bare", 4, "89\n⟦yes⟧"),
]


@pytest.mark.parametrize(("family", "max_length", "expected"), TRUNCATED)
def test_truncation_drops_from_the_left_of_the_prompt(tokenizer, family, max_length, expected):
    tok = tokenizer(family)
    encoded = Encoder(tok, max_length=max_length).encode(row("u: 0123456789", "a: yes"))
    assert marked(tok, encoded) == expected
    assert encoded.truncated == (max_length < 14)


def test_truncation_without_an_answer_keeps_the_beginning(tokenizer):
    tok = tokenizer("plain")
    encoded = Encoder(tok, max_length=4).encode(row("u: 0123456789"))
    assert marked(tok, encoded) == "<s>012"
    assert encoded.truncated


def test_truncation_drops_the_oldest_exchange_before_it_cuts_a_prompt(tokenizer):
    tok = tokenizer("plain")
    encoded = Encoder(tok, max_length=6).encode(row("u: 0123", "a: yes", "u: Go", "a: no"))
    assert marked(tok, encoded) == "<s>o\n⟦no</s>⟧"
    assert (encoded.truncated, encoded.dropped_turns) == (True, 2)


def test_choices_are_whole_answers_with_their_end_of_turn(tokenizer):
    tok = tokenizer("chatml")
    encoded = Encoder(tok, max_length=1000).encode_choices(
        row("u: Hi", "a: one", "u: Go", "a: A B", choices=["A", "A B"], answer=1)
    )
    texts = [marked(tok, one) for one in encoded]
    assert [text[text.index("⟦") :] for text in texts] == ["⟦A<|im_end|>⟧\n", "⟦A B<|im_end|>⟧\n"]
    assert texts[0].split("⟦")[0] == texts[1].split("⟦")[0]
    assert "one<|im_end|>" in texts[0].split("⟦")[0]  # an earlier answer is a part of the prompt


def test_choices_cut_the_same_prompt_tokens(tokenizer):
    tok = tokenizer("plain")
    encoded = Encoder(tok, max_length=8).encode_choices(row("u: 0123456789", "a: A", choices=["A", "ABCD"], answer=0))
    assert [marked(tok, one) for one in encoded] == ["<s>9\n⟦A</s>⟧", "<s>9\n⟦ABCD</s>⟧"]
    assert all(one.truncated for one in encoded)


def test_choices_with_a_special_token_are_refused(tokenizer):
    example = row("u: Hi", "a: A", choices=["A", "<|im_end|>"], answer=0)
    with pytest.raises(RowError, match="special token"):
        Encoder(tokenizer("chatml"), max_length=100).encode_choices(example)
    with pytest.raises(ValueError, match="has no choices"):
        Encoder(tokenizer("chatml"), max_length=100).encode_choices(row("u: Hi", "a: A"))


def test_spec_names_what_changes_the_tokens(tokenizer):
    spec = Encoder(tokenizer("chatml"), max_length=100).spec
    assert Encoder(tokenizer("chatml"), max_length=100).spec == spec
    other_template = Encoder(tokenizer("chatml", template=tokenizer("qwen3").chat_template), max_length=100).spec
    other_tokens = Encoder(tokenizer("chatml", nfc=True), max_length=100).spec
    other_length = Encoder(tokenizer("chatml"), max_length=101).spec
    changed = [
        {key for key in spec if spec[key] != other[key]} for other in (other_template, other_tokens, other_length)
    ]
    assert changed == [{"template"}, {"tokenizer"}, {"max_length"}]


def test_padding_and_truncation_set_elsewhere_change_nothing(tokenizer):
    tok = tokenizer("chatml")
    tok.add_special_tokens({"pad_token": "<|im_end|>"})
    before = Encoder(tok, max_length=100)
    tok(["a", "long text"], padding=True, truncation=True, max_length=2)
    after = Encoder(tok, max_length=100)
    assert after.spec == before.spec == Encoder(tokenizer("chatml"), max_length=100).spec
    example = row("u: Hi", "a: yes")
    assert after.encode(example).ids.tolist() == before.encode(example).ids.tolist()


@pytest.mark.parametrize(
    "clock",
    ["{{ strftime_now('%d %B %Y') }}", "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}"],
)
def test_a_template_with_a_clock_renders_the_same_on_every_day(tokenizer, clock):
    tok = tokenizer("chatml", template=clock + tokenizer("chatml").chat_template)
    text = marked(tok, Encoder(tok, max_length=1000).encode(row("u: Hi", "a: yes")))
    assert text.startswith("26 Jul 2024<|im_start|>system")
    assert str(date.today().year) not in text


def test_unusable_settings_name_the_option(tokenizer):
    with pytest.raises(UsageError, match=r"--max-length 2 is too short\. Give 3 or more\."):
        Encoder(tokenizer("chatml"), max_length=2)
    with pytest.raises(UsageError, match=r"Give a model with a tokenizer\.json\."):
        Encoder(object(), max_length=100)
    with pytest.raises(UsageError, match="chat template can't be used"):
        Encoder(tokenizer("chatml", template={"tool_use": "x", "rag": "y"}), max_length=100)
