"""What a chat template can say, found out from its text: switches for thinking, thoughts, tools.

Must not know messages or tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from ntkcli.errors import UsageError

# Llama 3 and others write today's date into the system turn, so a run resumed at midnight would end in other
# bytes than one that never stopped. Every row gets the date that Llama's template falls back to.
DATE: Final = "26 Jul 2024"
_PINNED_CLOCK: Final = "{% macro strftime_now(format) %}" + DATE + "{% endmacro %}"

REASONING: Final = ("reasoning_content", "thinking", "reasoning")
"""Fields of a message under which templates look for its thought: most; gpt-oss; some others. All are given."""
_SWITCHES: Final = ("enable_thinking", "thinking")
"""Variables that switch thinking on or off: Qwen 3, GLM 4.5, SmolLM3; DeepSeek V3.1, Granite 3.2."""
# A tag that opens a thought: <think>, <thought>, <|begin_of_thought|>, <seed:think>, [THINK].
_TAG: Final = r"[<\[](?!/)[^<>\[\]\s]{0,20}(?:think|thought|reason)[^<>\[\]\s]{0,20}[>\]]"
_OPENED: Final = re.compile(rf"{_TAG}\s*\Z", re.IGNORECASE)
_BEGINS: Final = re.compile(rf"\s*{_TAG}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Template:
    """A template's text, None where there is none, and what it knows: `switch` is the variable for thinking."""

    text: str | None
    switch: str | None = None
    thoughts: bool = False
    calls: bool = False
    tools: bool = False


def find_template(tokenizer: Any) -> Template:
    """The tokenizer's default chat template. UsageError if there are several and none is the default."""
    if tokenizer.chat_template is None:
        return Template(None)
    try:
        text = str(tokenizer.get_chat_template())
    except ValueError as error:  # several named templates and no default among them
        raise UsageError(f"the tokenizer's chat template can't be used: {error}") from error
    pinned = _PINNED_CLOCK + text if "strftime_now" in text else text
    variables = _variables(text)
    return Template(
        pinned,
        switch=next((name for name in _SWITCHES if name in variables), None),
        thoughts=any(_reads(text, field) for field in REASONING),
        calls=_reads(text, "tool_calls"),
        tools="tools" in variables,
    )


def without_thought(head: str) -> list[str]:
    """The head of an answer without the thought that it opens, with and without white space there; [] if none is."""
    found = _OPENED.search(head)
    if found is None:
        return []
    before = head[: found.start()]
    return list(dict.fromkeys([before, before.rstrip()]))


def begins_with_thought(text: str) -> bool:
    """Whether the first that a text has is a tag that opens a thought."""
    return _BEGINS.match(text) is not None


def _reads(text: str, field: str) -> bool:
    """Whether a template reads this field of a message."""
    return re.search(rf"""\.{field}\b|\[\s*['"]{field}['"]\s*\]|['"]{field}['"]""", text) is not None


def _variables(text: str) -> set[str]:
    """The variables that a template expects from outside, and sets none of itself; none if it can't be parsed."""
    from jinja2 import Environment, TemplateError
    from jinja2.meta import find_undeclared_variables

    plain = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", text)  # a tag of transformers' own
    try:
        return find_undeclared_variables(
            Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False).parse(plain)  # noqa: S701
        )
    except TemplateError:  # it will be refused where it is rendered
        return set()
