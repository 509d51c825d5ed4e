"""Templates that are rendered once for all turns: the texts are those of a rendering each; no others are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntkcli.data.rendering import Renderer
from ntkcli.data.rows import Message, RowError
from ntkcli.data.turn_by_turn import MARK
from tests.data.conftest import GEMMA, LLAMA3, MISTRAL, PHI, QWEN3
from tests.data.test_templates import GEMMA3, MISTRAL3, PHI4, R1, SMOLLM2
from tests.data.test_templates import QWEN3 as QWEN3_THOUGHTS

HEAD = "{% for message in messages %}"
CHAT = "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
ONCE = {
    "SmolLM2": SMOLLM2,
    "Llama 3": LLAMA3,
    "Gemma": GEMMA,
    "Mistral": MISTRAL,
    "Phi, an end behind all": PHI,
    "Phi 4": PHI4,
    "R1": R1,
    "an alias": "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = message['content'] | trim %}"
    "{% if loop.index0 == 0 %}{% set content = 'first ' + content %}{% endif %}[{{ content }}]{% endfor %}"
    "{% if add_generation_prompt %}[{% endif %}",
}
OTHERS = {
    "Gemma 3": GEMMA3,
    "Mistral 3": MISTRAL3,
    "Qwen 3": QWEN3,
    "Qwen 3, thoughts": QWEN3_THOUGHTS,
    "the last turn": HEAD + CHAT + "{% if loop.last %}end{% endif %}{% endfor %}",
    "their number": "{{ messages | length }}" + HEAD + CHAT + "{% endfor %}",
    "the next turn": HEAD + CHAT + "{{ loop.nextitem.role if loop.nextitem else '' }}{% endfor %}",
    "another turn": HEAD + CHAT + "{{ messages[-1].role }}{% endfor %}",
    "what follows": HEAD + CHAT + "{% endfor %}{{ messages[0].content }}",
    "a part": "{% for message in messages[1:] %}" + CHAT + "{% endfor %}",
    "some": "{% for message in messages if message.role != 'system' %}" + CHAT + "{% endfor %}",
    "a memory": "{% set ns = namespace(n=0) %}" + HEAD + "{% set ns.n = ns.n + 1 %}{{ ns.n }}" + CHAT + "{% endfor %}",
    "all by another name": "{% set all = '' %}{% if true %}{% set all = messages %}{% endif %}" + HEAD + CHAT
    + "{{ all }}{% endfor %}",
    "the prompt within": HEAD + CHAT + "{% if add_generation_prompt %}!{% endif %}{% endfor %}",
}  # fmt: skip
TEXT = st.lists(st.sampled_from(["a", " ", "\n", "yes", "é", "\x00", "turn", "</think>"]), max_size=5).map("".join)
TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXT), min_size=1, max_size=5)


@pytest.fixture
def pair(name: str, tokenizer: Callable[..., Any]) -> tuple[Renderer, Renderer]:
    """One that renders once, and one that renders each text."""
    once, each = renderer(tokenizer, ONCE[name]), renderer(tokenizer, ONCE[name])
    assert once._by_turn is not None
    each._by_turn = None
    return once, each


def renderer(tokenizer: Callable[..., Any], template: str) -> Renderer:
    return Renderer(tokenizer("chatml", template=template))


@pytest.mark.parametrize("name", ONCE)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(turns=TURNS, mark=st.booleans())
def test_the_texts_are_those_of_a_rendering_each(
    name: str, turns: list[tuple[str, str]], mark: bool, pair: tuple[Renderer, Renderer]
) -> None:
    messages = [Message(role, text) for role, text in turns]
    if mark:
        messages[0] = Message("user", f"a{MARK}b")

    def of(call: Callable[[Renderer], str]) -> list[str]:
        found = []
        for one in pair:
            try:
                found.append(call(one))
            except RowError as error:
                found.append(error.reason)
        return found

    for turn in range(len(messages)):
        head = of(lambda one, turn=turn: one.head(messages, turn))  # type: ignore[misc]
        upto = of(lambda one, turn=turn: one.upto(messages, turn))  # type: ignore[misc]
        assert head[0] == head[1]
        assert upto[0] == upto[1]
    whole = of(lambda one: one.text(messages))
    assert whole[0] == whole[1]
    asked = of(lambda one: one.text(messages, generation=True))
    assert asked[0] == asked[1]


@pytest.mark.parametrize("name", OTHERS)
def test_what_looks_at_other_turns_is_not_taken(name: str, tokenizer: Callable[..., Any]) -> None:
    assert renderer(tokenizer, OTHERS[name])._by_turn is None


def test_a_row_is_rendered_once(tokenizer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from ntkcli.data import Encoder
    from tests.data.test_encoding import row

    encoder = Encoder(tokenizer("chatml", template=SMOLLM2), max_length=500)
    calls = []
    found = encoder._renderer._by_turn
    assert found is not None
    inner = found._render
    monkeypatch.setattr(found, "_render", lambda **given: (calls.append(1), inner(**given))[1])
    monkeypatch.setattr(Renderer, "_render", lambda *_: pytest.fail("rendered again"))
    encoder.encode(row("s: S", "u: Hi", "a: yes", "u: Go", "a: no"))
    assert len(calls) == 1
