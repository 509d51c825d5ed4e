"""Rows that are conversations: messages, ShareGPT's conversations, prompts and completions of messages.

What a message says beside its content is read too: training marks, thoughts, tool calls and their results.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from ntkcli.data.marks import is_learned
from ntkcli.data.rows import RAW, Content, Message, RowError, column_names, what_is
from ntkcli.data.tools import calls_of_text, read_calls, read_tools
from ntkcli.data.values import listed, text_of
from store import RowStatus

ROLES: Final = ("system", "user", "assistant", "tool")
REASONING: Final = ("reasoning_content", "thinking", "reasoning")
"""Names of a thought beside the content: of most templates, of gpt-oss, of some servers."""
_CALL: Final = "function_call"
_ROLE_OF: Final = {
    **{role: role for role in ROLES},
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    _CALL: "assistant",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "ipython": "tool",
}


def read_messages(raw: RAW) -> Content:
    """A list of {role, content}, the user first after system turns; maybe without an assistant turn."""
    return Content(_turns(raw["messages"], "messages"), tools=read_tools(raw))


def read_conversations(raw: RAW) -> Content:
    """ShareGPT: a list of {from, value}, and maybe a `system` text beside it."""
    turns = _turns(raw["conversations"], "conversations")
    system = raw.get("system")
    if system is not None and system != "":
        turns = (Message("system", text_of(system, "the column 'system'")), *turns)
    return Content(turns, tools=read_tools(raw))


def is_message_list(value: Any) -> bool:
    """Whether a text is the JSON of a list of messages."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return False
    try:
        items = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return bool(items) and all(isinstance(item, dict) and ("role" in item or "from" in item) for item in items)


def read_message_lists(raw: RAW) -> Content:
    """`prompt` and `completion` as lists of messages; nothing of the prompt is supervised, whatever its marks."""
    prompt = tuple(replace(message, learned=True) for message in _turns(raw["prompt"], "prompt", answers=False))
    completion = _turns(raw["completion"], "completion", opening=False)
    if not any(message.role == "assistant" for message in completion):
        raise RowError("the column 'completion' has no assistant turn")
    return Content((*prompt, *completion), context=len(prompt), tools=read_tools(raw))


def _turns(value: Any, column: str, *, opening: bool = True, answers: bool = True) -> tuple[Message, ...]:
    """The messages of a list; an `opening` one must have the user first, after system turns.

    Where its `answers` count, one of them must be left to learn.
    """
    items = enumerate(listed(value, column, "messages"), start=1)
    messages = [_message(item, f"message {i} in {column!r}") for i, item in items]
    if not messages:
        raise RowError(f"the column {column!r} is an empty list", RowStatus.EMPTY)
    first = next((message.role for message in messages if message.role != "system"), None)
    if opening and first is None:
        raise RowError(f"the column {column!r} has system turns only, and no user turn")
    if opening and first != "user":
        who = "the assistant" if first == "assistant" else "a tool"
        raise RowError(f"the column {column!r} starts with {who}; the first turn must be the user's")
    said = [message.learned for message in messages if message.role == "assistant"]
    if answers and said and not any(said):
        raise RowError(f"the marks in {column!r} leave no turn of the assistant to learn", RowStatus.EMPTY)
    return tuple(messages)


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise RowError(f"{where} is {what_is(item)}, not an object with role and content")
    role_key, content_key = ("from", "value") if "from" in item and "role" not in item else ("role", "content")
    if role_key not in item:
        raise RowError(f"{where} has no {role_key!r}; found: {column_names(item)}")
    named = item[role_key]
    role = _ROLE_OF.get(named) if isinstance(named, str) else None
    if role is None:
        raise RowError(f"{where} has as role {what_is(named)}; known are {', '.join(ROLES)}")
    calls = _calls(item, where)
    if content_key not in item and not calls:
        raise RowError(f"{where} has no {content_key!r}; found: {column_names(item)}")
    content, reasoning = item.get(content_key), _reasoning(item, where)
    learned = is_learned(item, where, assistant=role == "assistant")
    if role != "assistant" and (calls or reasoning):
        raise RowError(f"{where} has {'tool calls' if calls else 'a thought'}, which only the assistant's turns have")
    if role == "system" and content == "":  # means something: it switches a template's own system turn off
        return Message(role, content)
    if calls and not content:
        return Message(role, "", learned, reasoning, calls)
    text = text_of(_text_parts(content, where), f"the content of {where}")
    if named == _CALL and (found := calls_of_text(text)):
        return Message(role, "", learned, reasoning, found)
    if role == "tool":
        return Message(role, text, name=_word(item, "name"), call_id=_word(item, "tool_call_id"))
    return Message(role, text, learned, reasoning, calls)


def _calls(item: RAW, where: str) -> str:
    """Its tool calls as `ntkcli.data.tools` keeps them; "" for none."""
    given = [item[key] for key in ("tool_calls", _CALL) if item.get(key)]
    if len(given) > 1:
        raise RowError(f"{where} has both 'tool_calls' and {_CALL!r}")
    return read_calls(given[0], where) if given else ""


def _reasoning(item: RAW, where: str) -> str:
    """The thought given beside the content; "" for none."""
    found = {key: item[key] for key in REASONING if item.get(key)}
    for key, value in found.items():
        text_of(value, f"{key!r} of {where}")
    if len(set(found.values())) > 1:
        raise RowError(f"{where} has thoughts that differ: {' and '.join(map(repr, found))}")
    return next(iter(found.values()), "")


def _word(item: RAW, key: str) -> str:
    value = item.get(key)
    return "" if value is None else str(value)


def _text_parts(content: Any, where: str) -> Any:
    """A content given as a list of parts, as one text; other contents as they are."""
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else None
            raise RowError(f"{where} has a part that is not text" + (f": {what_is(kind)}" if kind else ""))
        texts.append(part["text"])
    return "".join(texts)
