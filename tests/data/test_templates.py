"""What is supervised under the templates of today's families, in a minimal form of our own, written down by hand.

Beside tests/data/test_encoding.py: system turns, several turns, thoughts, and families that have no system role.
"""

from __future__ import annotations

import pytest

from ntkcli.data import Encoder, RowError
from tests.data.test_encoding import marked, row

SMOLLM2 = (  # a system turn of its own where none is given
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are SmolLM.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA3 = (  # the system turn becomes the beginning of the user's first
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set prefix = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set prefix = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ prefix if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL3 = (  # the system text stands in the last user turn, so it moves as the conversation goes on
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}"
    "{% for m in turns %}{% if m.role == 'user' %}"
    "{% if loop.index0 >= turns | length - 2 and system is defined %}[INST] {{ system }}\n\n{{ m.content }}[/INST]"
    "{% else %}[INST] {{ m.content }}[/INST]{% endif %}"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
PHI4 = (
    "{% for m in messages %}{% if m.role == 'system' %}<|system|>{{ m.content }}<|end|>"
    "{% elif m.role == 'user' %}<|user|>{{ m.content }}<|end|>"
    "{% else %}<|assistant|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QWEN3 = (  # splits thoughts off, drops them from turns before the last question, puts one before every answer after it
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role != 'assistant' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% else %}{% set thought = '' %}{% set content = m.content %}"
    "{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last %}<think>\n{{ thought.strip('\n') }}\n</think>\n\n{% endif %}"
    "{{ content.lstrip('\n') }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
R1 = (  # opens a thought for an answer to come, and leaves the thought of a finished one out
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}"
    "{% else %}<|assistant|>{{ m.content.split('</think>')[-1] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
TURNS = row("s: S", "u: Hi", "a: yes", "u: Go", "a: no")
DATE = "<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024<|eot_id|>"


def llama3(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def chatml(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


BY_HAND = [
    (
        "SmolLM2",
        ("chatml", SMOLLM2),
        row("u: Hi", "a: yes"),
        chatml("system", "You are SmolLM.") + chatml("user", "Hi") + "<|im_start|>assistant\n⟦yes<|im_end|>⟧\n",
    ),
    (
        "SmolLM2, turns",
        ("chatml", SMOLLM2),
        TURNS,
        chatml("system", "S")
        + chatml("user", "Hi")
        + "<|im_start|>assistant\n⟦yes<|im_end|>⟧\n"
        + chatml("user", "Go")
        + "<|im_start|>assistant\n⟦no<|im_end|>⟧\n",
    ),
    (
        "Llama 3, turns",
        ("llama3", None),
        TURNS,
        (
            f"<|bos|>{DATE}{llama3('system')}S<|eot_id|>{llama3('user')}Hi<|eot_id|>{llama3('assistant')}⟦yes<|eot_id|>⟧"
            f"{llama3('user')}Go<|eot_id|>{llama3('assistant')}⟦no<|eot_id|>⟧"
        ),
    ),
    (
        "Gemma 3, system",
        ("gemma", GEMMA3),
        TURNS,
        (
            "<bos><start_of_turn>user\nS\n\nHi<end_of_turn>\n<start_of_turn>model\n⟦yes<end_of_turn>⟧\n"
            "<start_of_turn>user\nGo<end_of_turn>\n<start_of_turn>model\n⟦no<end_of_turn>⟧\n"
        ),
    ),
    ("Mistral 3, system", ("mistral", MISTRAL3), row("s: S", "u: Hi", "a: yes"), "<s>[INST] S\n\nHi[/INST]⟦ yes</s>⟧"),
    (
        "Mistral 3, turns",
        ("mistral", MISTRAL3),
        row("u: Hi", "a: yes", "u: Go", "a: no"),
        "<s>[INST] Hi[/INST]⟦ yes</s>⟧[INST] Go[/INST]⟦ no</s>⟧",
    ),
    (
        "Phi 4, turns",
        ("phi", PHI4),
        TURNS,
        "<|system|>S<|end|><|user|>Hi<|end|><|assistant|>⟦yes<|end|>⟧<|user|>Go<|end|><|assistant|>⟦no<|end|>⟧",
    ),
    (
        "Qwen 3, a thought of the row's own",
        ("qwen3", QWEN3),
        row("u: Hi", "a: <think>\nwhy\n</think>\n\nyes"),
        chatml("user", "Hi") + "<|im_start|>assistant\n⟦<think>\nwhy\n</think>\n\nyes<|im_end|>⟧\n",
    ),
    (
        "Qwen 3, turns",
        ("qwen3", QWEN3),
        row("u: Hi", "a: yes", "u: Go", "a: no"),
        chatml("user", "Hi")
        + "<|im_start|>assistant\n⟦yes<|im_end|>⟧\n"
        + chatml("user", "Go")
        + "<|im_start|>assistant\n⟦<think>\n\n</think>\n\nno<|im_end|>⟧\n",
    ),
]


@pytest.mark.parametrize(("made_by", "example", "expected"), [c[1:] for c in BY_HAND], ids=[c[0] for c in BY_HAND])
def test_mask_by_hand(tokenizer, made_by, example, expected):
    family, template = made_by
    tok = tokenizer(family) if template is None else tokenizer(family, template=template)
    assert marked(tok, Encoder(tok, max_length=1000).encode(example)) == expected


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        (True, "<|im_start|>assistant\n⟦<think>\n\n</think>\n\nno<|im_end|>⟧\n"),
        (False, "<|im_start|>assistant\n<think>\n\n</think>\n\n⟦no<|im_end|>⟧\n"),
    ],
)
def test_qwen3_thinking_on_and_off_in_several_turns(tokenizer, thinking, expected):
    """On, the empty thought is learned; off, it is given. Earlier answers stand without one in both."""
    tok = tokenizer("qwen3", template=QWEN3)
    encoded = Encoder(tok, max_length=1000, thinking=thinking).encode(row("u: Hi", "a: yes", "u: Go", "a: no"))
    earlier = chatml("user", "Hi") + "<|im_start|>assistant\n⟦yes<|im_end|>⟧\n"
    assert marked(tok, encoded) == earlier + chatml("user", "Go") + expected


QWQ = (  # opens a thought, and writes what the answer says, its own thought included
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
ASKED_R1, ASKED_QWQ = "<|bos|><|user|>Hi<|assistant|>", chatml("user", "Hi") + "<|im_start|>assistant\n"


@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_thought_that_the_template_opens_is_not_a_part_of_finished_answers(tokenizer, thinking):
    """Answers stand where they stand in the text; only what the model is to write begins with the thought."""
    tok = tokenizer("r1", template=R1)
    encoder = Encoder(tok, max_length=1000, thinking=thinking)
    text = marked(tok, encoder.encode(row("u: Hi", "a: yes", "u: Go", "a: no")))
    assert text == f"{ASKED_R1}⟦yes<|end|>⟧<|user|>Go<|assistant|>⟦no<|end|>⟧"
    choices = encoder.encode_choices(row("u: Hi", "a: yes", choices=["yes", "no"], answer=0))
    assert [marked(tok, one) for one in choices] == [f"{ASKED_R1}⟦yes<|end|>⟧", f"{ASKED_R1}⟦no<|end|>⟧"]
    prompt = marked(tok, encoder.encode_prompt(row("u: Hi", "a: yes")))
    assert prompt == ASKED_R1 + ("" if thinking is False else "<think>\n")
    assert "opens a thought" in encoder.form
    assert ("generated without it" in encoder.form) == (thinking is False)
    assert Encoder(tokenizer("chatml", template=SMOLLM2), max_length=1000).form == ""
    with pytest.raises(RowError, match=r"lacks the answer of turn 2: the chat template takes its thought out"):
        encoder.encode(row("u: Hi", "a: <think>\nwhy\n</think>\n\nyes"))


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        (None, ASKED_QWQ + "<think>\n⟦why\n</think>\n\nyes<|im_end|>⟧\n"),  # the head has the opening tag
        (False, ASKED_QWQ + "⟦<think>\nwhy\n</think>\n\nyes<|im_end|>⟧\n"),
    ],
)
def test_an_answer_with_its_own_thought_behind_a_template_that_opens_one(tokenizer, thinking, expected):
    tok = tokenizer("qwen3", template=QWQ)
    encoder = Encoder(tok, max_length=1000, thinking=thinking)
    assert marked(tok, encoder.encode(row("u: Hi", "a: <think>\nwhy\n</think>\n\nyes"))) == expected
    assert marked(tok, encoder.encode(row("u: Hi", "a: yes"))) == ASKED_QWQ + "⟦yes<|im_end|>⟧\n"


SWITCHES = [
    ("enable_thinking", "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"),
    ("thinking", "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ '[on]' if thinking }}"),
]


@pytest.mark.parametrize(("name", "switch"), SWITCHES, ids=[name for name, _ in SWITCHES])
def test_thinking_sets_the_variable_that_the_template_reads(tokenizer, name, switch):
    tok = tokenizer("chatml", template=SMOLLM2 + switch)
    on, off = (Encoder(tok, max_length=1000, thinking=value).encode_prompt(TURNS) for value in (True, False))
    assert marked(tok, on).endswith({"enable_thinking": "assistant\n", "thinking": "[on]"}[name])
    assert marked(tok, off).endswith({"enable_thinking": "<think></think>", "thinking": "assistant\n"}[name])


HARMONY = (  # gpt-oss: channels, thoughts of the last answer only, another end for the last turn
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if loop.last and m.thinking is defined %}<|start|>assistant<|channel|>analysis<|message|>"
    "{{ m.thinking }}<|end|>"
    "{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def test_gpt_oss_by_hand(tokenizer):
    tok = tokenizer("harmony", template=HARMONY)
    encoder = Encoder(tok, max_length=1000)
    assert marked(tok, encoder.encode(row("u: Hi", "a: yes", "u: Go", "a: no"))) == (
        "<|start|>user<|message|>Hi<|end|><|start|>assistant⟦<|channel|>final<|message|>yes<|end|>⟧"
        "<|start|>user<|message|>Go<|end|><|start|>assistant⟦<|channel|>final<|message|>no<|return|>⟧"
    )


REFUSED = [
    ("gemma", None, TURNS, "the chat template refuses it: System role not supported"),
    ("gemma", GEMMA3, row("u: Hi", "u: Go", "a: yes"), "the chat template refuses it: roles must alternate"),
    ("mistral", MISTRAL3, TURNS, "the chat template changes the turns before turn 3 once its answer is there"),
    (  # the thought of an earlier turn is not in the text, so it can't be learned
        "qwen3",
        QWEN3,
        row("u: Hi", "a: <think>\nwhy\n</think>\n\nyes", "u: Go", "a: no"),
        "the rendered text lacks the answer of turn 2",
    ),
]


@pytest.mark.parametrize(("family", "template", "example", "reason"), REFUSED)
def test_what_a_template_cannot_say_is_refused_not_guessed(tokenizer, family, template, example, reason):
    tok = tokenizer(family) if template is None else tokenizer(family, template=template)
    with pytest.raises(RowError) as caught:
        Encoder(tok, max_length=1000).encode(example)
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("family", "template"), [("chatml", SMOLLM2), ("gemma", GEMMA3), ("phi", PHI4), ("qwen3", QWEN3)]
)
def test_a_cut_keeps_the_answer_and_its_end(tokenizer, family, template):
    """From the left of the prompt, behind the begin-of-text token, and said so."""
    tok = tokenizer(family, template=template)
    example = row("u: " + "0123456789" * 20, "a: yes")
    whole = Encoder(tok, max_length=10_000).encode(example)
    cut = Encoder(tok, max_length=60).encode(example)
    assert (whole.truncated, cut.truncated, len(cut)) == (False, True, 60)
    assert cut.ids[1:].tolist() == whole.ids[-59:].tolist()
    assert marked(tok, cut).partition("⟦")[2] == marked(tok, whole).partition("⟦")[2]
    assert cut.ids[0] == (whole.ids[0] if family in ("chatml", "gemma") else whole.ids[-60])
