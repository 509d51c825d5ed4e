"""Rows that are conversations: messages, ShareGPT's conversations, prompts and completions of messages.

Tool turns are kept as text: what a tool says is a user's turn, what it is asked is the assistant's.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

from ntkcli.data.rows import RAW, Content, Message, RowError, column_names, what_is
from ntkcli.data.values import listed, text_of
from store import RowStatus

ROLES: Final = ("system", "user", "assistant")
_ROLE_OF: Final = {
    **{role: role for role in ROLES},
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
}
_TOOLS: Final = ("tool", "function", "observation", "function_response", "ipython")


def read_messages(raw: RAW) -> Content:
    """A list of {role, content}, the user first after system turns; maybe without an assistant turn."""
    return Content(_turns(raw["messages"], "messages"))


def read_conversations(raw: RAW) -> Content:
    """ShareGPT: a list of {from, value}, and maybe a `system` text beside it."""
    turns = _turns(raw["conversations"], "conversations")
    system = raw.get("system")
    if system is not None and system != "":
        turns = (Message("system", text_of(system, "the column 'system'")), *turns)
    return Content(turns)


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
    """`prompt` and `completion` as lists of messages; nothing of the prompt is supervised."""
    prompt = _turns(raw["prompt"], "prompt")
    completion = _turns(raw["completion"], "completion", opening=False)
    if not any(message.role == "assistant" for message in completion):
        raise RowError("the column 'completion' has no assistant turn")
    return Content((*prompt, *completion), context=len(prompt))


def _turns(value: Any, column: str, *, opening: bool = True) -> tuple[Message, ...]:
    """The messages of a list; an `opening` one must have the user first, after system turns."""
    messages: list[Message] = []
    after_tool = False
    for i, item in enumerate(listed(value, column, "messages"), start=1):
        message, is_tool = _message(item, f"message {i} in {column!r}")
        if is_tool and after_tool:  # the results of parallel calls: templates want roles to alternate
            message = Message(message.role, f"{messages.pop().content}\n{message.content}")
        messages.append(message)
        after_tool = is_tool
    if not messages:
        raise RowError(f"the column {column!r} is an empty list", RowStatus.EMPTY)
    first = next((message.role for message in messages if message.role != "system"), None)
    if opening and first is None:
        raise RowError(f"the column {column!r} has system turns only, and no user turn")
    if opening and first == "assistant":
        raise RowError(f"the column {column!r} starts with the assistant; the first turn must be the user's")
    return tuple(messages)


def _message(item: Any, where: str) -> tuple[Message, bool]:
    """The message, and whether it is what a tool says."""
    if not isinstance(item, dict):
        raise RowError(f"{where} is {what_is(item)}, not an object with role and content")
    role_key, content_key = ("from", "value") if "from" in item and "role" not in item else ("role", "content")
    for key in (role_key, content_key):
        if key not in item:
            raise RowError(f"{where} has no {key!r}; found: {column_names(item)}")
    role, content = item[role_key], item[content_key]
    if isinstance(role, str) and role in _TOOLS:
        return Message("user", text_of(_text_parts(content, where), f"the content of {where}")), True
    known = _ROLE_OF.get(role) if isinstance(role, str) else None
    if known is None:
        raise RowError(f"{where} has as role {what_is(role)}; known are {', '.join(ROLES)}")
    if known == "system" and content == "":  # means something: it switches a template's own system turn off
        return Message(known, content), False
    if known == "assistant" and not content and item.get("tool_calls"):
        return Message(known, _calls(item["tool_calls"])), False
    return Message(known, text_of(_text_parts(content, where), f"the content of {where}")), False


def _text_parts(content: Any, where: str) -> Any:
    """A content given as a list of parts, as one text; other contents as they are."""
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else None
            raise RowError(f"{where} has a part that is no text" + (f": {what_is(kind)}" if kind else ""))
        texts.append(part["text"])
    return "".join(texts)


def _calls(calls: Any) -> str:
    """Tool calls as text: one JSON object a line, keys in order."""
    if not isinstance(calls, list):
        calls = [calls]
    return "\n".join(json.dumps(_call(call), ensure_ascii=False, sort_keys=True) for call in calls)


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # else it stays the text it is
            arguments = json.loads(arguments)
    return {"name": function.get("name"), "arguments": arguments}
