"""What users write to name files: `~`, NAME=FILE and FILE=WEIGHT, where a path itself may hold an equals sign."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from ntkcli.data.tasks.reference import find_task, names_task
from ntkcli.paths import home, places_of
from store.layout import is_name


def is_there(reference: str) -> bool:
    """Whether a reference is a path that is there, a glob that matches, a task at such a path; or several."""
    if len(places := places_of(reference)) > 1:
        return all(map(is_there, places))
    path = home(reference)
    if os.path.lexists(path) or (glob.has_magic(path) and next(glob.iglob(path, recursive=True), None) is not None):
        return True
    if not names_task(reference):
        return False
    place = find_task(reference).path
    return bool(place) and is_there(place)


def split_name(text: str) -> tuple[str | None, str]:
    """Name and file of `NAME=FILE`; None and the text where it is no such pair: `year=2024/x.jsonl` may be a path."""
    name, equals, file = text.partition("=")
    if equals and is_name(name) and not is_there(text):
        return name, file
    return None, text


def split_weight(text: str) -> tuple[str, str | None]:
    """Reference and weight of `REF=N`; the text and None where what follows the last `=` belongs to a path."""
    reference, equals, number = text.rpartition("=")
    if not equals or is_there(text) or _is_path(number):
        return text, None
    return reference, number


def _is_path(text: str) -> bool:
    """Whether it can't be a mistaken number: it has a slash, or a letter behind a dot as file names have."""
    return "/" in text or Path(text).suffix[1:2].isalpha()
