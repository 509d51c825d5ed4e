"""`--columns prompt=question,completion=answer`: a row's own columns under the names that the schemas know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ntkcli.data.rows import RAW


def renamed(raw: RAW, columns: Mapping[str, str]) -> RAW:
    """The row with its own columns under the known names instead; `a.b` is the column b within a.

    A column that isn't there leaves its name out.
    """
    if not columns:
        return raw
    taken = set(columns.values())
    row = type(raw)({name: value for name, value in raw.items() if name not in taken and name not in columns})
    for known, own in columns.items():
        found, value = lookup(raw, own)
        if found:
            row[known] = value
    return row


def lookup(raw: RAW, own: str) -> tuple[bool, Any]:
    """Whether a row has this column, which may be `a.b`, and what it holds."""
    if own in raw:
        return True, raw[own]
    value: Any = raw
    for name in own.split("."):
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value
