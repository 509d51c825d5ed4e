"""Stores at URLs, with the options of `ntksel push` and `ntksel pull`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ntkcli.api.opening import StorePath, path_of
from ntkcli.api.results import Result
from ntkcli.progress import Progress
from ntkcli.steps.remote.pull import PullResult
from ntkcli.steps.remote.push import PushResult


@dataclass(frozen=True, slots=True)
class Pushed(Result, PushResult):
    """What is at the URL now, and what of it was sent."""


@dataclass(frozen=True, slots=True)
class Pulled(Result, PullResult):
    """What is in the folder now, and what of it was received."""


def push(store: StorePath, url: str, *, force: bool = False, progress: Progress | None = None) -> Pushed:
    """Copy what is finished in a store to a URL: only what is missing there or differs. Like `ntksel push`.

    Raises:
        UsageError: the URL can't be used, or holds other things.
        SpecError: the URL holds another store, or an artefact of the same name with other settings.
    """
    from ntkcli.steps.remote import push as step

    return Pushed.of(step.push(path_of(store), url, force=force, progress=progress))


def pull(url: str, store: str | Path, *, force: bool = False, progress: Progress | None = None) -> Pulled:
    """Copy a pushed store from a URL into a folder: only what is missing or differs. Like `ntksel pull`.

    Raises:
        IncompleteError: there is no store at the URL, or it is half pushed.
        SpecError: the folder is another store, or has an artefact of the same name with other settings.
    """
    from ntkcli.steps.remote import pull as step

    return Pulled.of(step.pull(url, store, force=force, progress=progress))
