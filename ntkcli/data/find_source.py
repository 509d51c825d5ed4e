"""What `--data` may name: a task, or a place (`ntkcli.data.places`)."""

from __future__ import annotations

import glob
from pathlib import Path

from ntkcli.data.formats.registry import name_of_url_reader
from ntkcli.data.hub import is_hub_id, local_config
from ntkcli.data.llamafactory import is_entry
from ntkcli.data.places import SeveralSources, Source, find_place
from ntkcli.data.stdin import STDIN
from ntkcli.data.tasks.reference import find_task, names_task
from ntkcli.data.tasks.source import TaskSource
from ntkcli.errors import require_text
from ntkcli.paths import home, places_of


def find_source(reference: str, *, split: str | None = None) -> Source:
    """The rows that a reference names. UsageError if there are none, or if `split` is needed or makes no sense."""
    require_text(reference)
    if len(places := places_of(reference)) > 1:
        return SeveralSources(tuple(find_source(place, split=split) for place in places))
    reference = home(reference)
    if names_task(reference):
        return TaskSource(find_task(reference), split=split)
    return find_place(reference, split=split)


def names_data(reference: str) -> bool:
    """Whether it can name rows: a file, -, a glob, a Hub id, a task, an entry of LLaMA-Factory's; or several."""
    if len(places := places_of(reference)) > 1:
        return all(map(names_data, places))
    reference = home(reference)
    named = (
        reference == STDIN
        or name_of_url_reader(reference) is not None
        or glob.has_magic(reference)
        or is_hub_id(reference)
    )
    named = named or local_config(reference) is not None or is_entry(reference) or names_task(reference)
    return named or Path(reference).exists()
