"""`ray` of the functions: the work is shared first, and is found finished then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ntkcli.api.opening import path_of
from ntkcli.progress import Progress, Silent


def share(verb: str, given: Mapping[str, Any]) -> None:
    """With `ray` among the arguments, compute the parts of this call on that cluster."""
    if given["ray"] is None:
        return
    from ntkcli.commands.as_words import as_words
    from ntkcli.commands.on_ray import share_words

    store = path_of(given["store"])
    progress: Progress = given.get("progress") or Silent()
    words = as_words(verb, {**given, "store": store, "ray": None})
    share_words(words, str(given["ray"]), store, progress)
