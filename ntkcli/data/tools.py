"""Tools of a conversation: the functions declared, the calls made, and both as JSON in one form.

Forms read: OpenAI's `tool_calls` and its older `function_call`, ShareGPT's turns from "function_call", and lists of
functions under `tools` or `functions`. The form kept is what chat templates of transformers take.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from ntkcli.data.rows import RAW, RowError, what_is


def read_calls(value: Any, where: str) -> str:
    """Tool calls as a JSON list of {"name", "arguments"}, with "id" where one is given. RowError in plain words."""
    calls = _json(value)
    calls = calls if isinstance(calls, list) else [calls]
    return _dump([_call(call, f"call {i} of {where}") for i, call in enumerate(calls, start=1)]) if calls else ""


def calls_of_text(text: str) -> str | None:
    """The calls that a text is, as a turn from "function_call" has them; None if it is another text."""
    value = _json(text)
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in items):
        return None
    return read_calls(items, "the turn")


def read_tools(raw: RAW) -> str:
    """The functions of the columns `tools` or `functions` as a JSON list in OpenAI's form; "" for none."""
    for column in ("tools", "functions"):
        value = raw.get(column)
        found = _json(value)
        if value is None or found in ("", [], {}):
            continue
        if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
            raise RowError(f"the column {column!r} holds {what_is(value)}, not a list of functions")
        return _dump([tool if "function" in tool else {"type": "function", "function": tool} for tool in found])
    return ""


def for_template(calls: str, *, as_text: bool = False) -> list[dict[str, Any]]:
    """The calls as a template takes them; `as_text` with arguments in JSON, which some templates and tables want."""
    found = []
    for call in json.loads(calls):
        arguments = call["arguments"]
        if as_text and isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        one = {"type": "function", "function": {"name": call["name"], "arguments": arguments}}
        found.append({**one, "id": call["id"]} if "id" in call else one)
    return found


def as_lines(calls: str) -> str:
    """The calls as text, for templates that know none: a JSON object a line, keys in order."""
    return "\n".join(
        json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False, sort_keys=True)
        for call in json.loads(calls)
    )


def names(calls: str) -> list[str]:
    """The names of the functions called."""
    return [call["name"] for call in json.loads(calls)]


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError(f"{where} is {what_is(call)} without the name of a function")
    arguments = function.get("arguments")
    decoded = {} if arguments is None else _json(arguments)
    found = {"name": function["name"], "arguments": decoded if isinstance(decoded, dict) else arguments}
    number = call.get("id")
    return {**found, "id": str(number)} if number not in (None, "") else found


def _json(value: Any) -> Any:
    """What JSON in a text says; other values, and other texts, as they are."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
