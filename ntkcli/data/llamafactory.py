"""An entry of LLaMA-Factory's `dataset_info.json`, named `FOLDER/dataset_info.json:NAME`, as file, split and columns.

Preference data (`ranking`), images and other modalities are refused.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ntkcli.errors import DataError, UsageError

_FILE: Final = "dataset_info.json"
_COLUMNS: Final = {  # theirs → ours
    "alpaca": {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "system": "system",
        "history": "history",
    },
    "sharegpt": {"messages": "conversations", "system": "system", "tools": "tools"},
}
_IGNORED: Final = {"tools"}
_NOT_READ: Final = ("num_samples", "folder", "script_url")  # to read more rows than it says would be no service
_REFUSED: Final = ("images", "videos", "audios", "chosen", "rejected", "kto_tag")
_TAGS: Final = {  # as ntkcli.data.conversations reads them
    "role_tag": ("from", "role"),
    "content_tag": ("value", "content"),
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call",),
    "system_tag": ("system",),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What an entry stands for, in the words of `DataFile`."""

    reference: str
    columns: dict[str, str]
    split: str | None


def find_entry(reference: str) -> Entry | None:
    """The entry that a reference names; None if it is of another form.

    Raises:
        UsageError: there is no such file or entry, or it asks for what is not read here.
        DataError: the file is no JSON object.
    """
    if not is_entry(reference):
        return None
    head, _, name = os.path.expanduser(reference).rpartition(":")
    path = Path(head)
    entries = _read(path)
    entry = entries.get(name)
    if not isinstance(entry, dict):
        known = ", ".join(list(entries)[:20]) or "none"
        raise UsageError(f"{path} has no entry {name!r}.", f"Give one of: {known}.")
    where = f"{path}:{name}"
    formatting = str(entry.get("formatting", "alpaca"))
    if formatting not in _COLUMNS:
        raise UsageError(f"{where} has the formatting {formatting!r}.", f"Known are {', '.join(_COLUMNS)}.")
    if entry.get("ranking"):
        raise UsageError(f"{where} holds preferences (ranking), not answers.", "Give an entry with one answer a row.")
    if unread := next((key for key in _NOT_READ if entry.get(key)), None):
        raise UsageError(f"{where} has {unread!r}, which is not read.", "Leave it out, or give the files themselves.")
    _check_tags(where, entry.get("tags") or {})
    place, columns = _place(where, path.parent, entry), _columns(where, entry, formatting)
    return Entry(place, columns, None if Path(place).is_file() else entry.get("split"))


def is_entry(reference: str) -> bool:
    """Whether it has the form `FOLDER/dataset_info.json:NAME`."""
    head, colon, _ = reference.rpartition(":")
    return bool(colon) and Path(head).name == _FILE


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.", "Give the path of the file.") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}.", "Fix the file.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is not an object of entries.", "Fix the file.")
    return value


def _place(where: str, folder: Path, entry: dict[str, Any]) -> str:
    """The entry's file, beside the record; or its Hub id."""
    if name := entry.get("file_name"):
        return str(folder / os.path.expanduser(str(name)))
    if hub := entry.get("hf_hub_url"):
        return f"{hub}:{entry['subset']}" if entry.get("subset") else str(hub)
    raise UsageError(f"{where} has neither file_name nor hf_hub_url.", "Give one of them.")


def _columns(where: str, entry: dict[str, Any], formatting: str) -> dict[str, str]:
    known = _COLUMNS[formatting]
    columns: dict[str, str] = {}
    for theirs, own in (entry.get("columns") or {}).items():
        if theirs in _REFUSED or (theirs not in known and theirs not in _IGNORED):
            raise UsageError(f"{where} has the column {theirs!r}, which is not read.", "Give an entry of texts.")
        if theirs in known and own is not None:
            columns[known[theirs]] = str(own)
    return columns


def _check_tags(where: str, tags: dict[str, Any]) -> None:
    for tag, value in tags.items():
        if value not in _TAGS.get(tag, ()):
            raise UsageError(
                f"{where} has the tag {tag} {value!r}.",
                f"Known are {', '.join(_TAGS[tag])}." if tag in _TAGS else f"Known are {', '.join(_TAGS)}.",
            )
