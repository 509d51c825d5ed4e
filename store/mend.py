"""The commands that make an artefact, forget its damage or remove it, as the messages of a store name them. Pure."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from store.layout import ARRAYS, Kind, kind_of

_VERBS: Final[dict[Kind, tuple[str, tuple[str, ...]]]] = {  # kind -> verb, the options that name its artefact
    Kind.DATASET: ("featurize", ("--name",)),
    Kind.FEATURES: ("featurize", ("--name", "--feature")),
    Kind.SCORE: ("score", ("--name",)),
    Kind.SELECTION: ("select", ("--name",)),
    Kind.RUN: ("finetune", ("--name",)),
    Kind.EVAL: ("eval", ("--name", "--run")),
    Kind.TOKENS: ("featurize", ("--name",)),
}


def store_of(path: Path) -> Path:
    """The store that the file or folder `path` under its arrays belongs to."""
    return next((folder.parent for folder in path.parents if folder.name == ARRAYS), path.parent)


def making(store: Path, name: str) -> str:
    """`ntksel featurize med --name pool --feature ntk ...`: the command that made the artefact, in outline."""
    verb, options = _VERBS[kind_of(name)]
    given = " ".join(map(" ".join, zip(options, name.split("/")[1:], strict=False)))
    return f"`ntksel {verb} {_word(store)} {given} ...`"


def removing(store: Path, name: str) -> str:
    """`ntksel rm med features/pool/ntk`."""
    return f"`ntksel rm {_word(store)} {name}`"


def giving_up(store: Path, name: str) -> str:
    """What is left where nothing in the store can mend it."""
    return (
        f"restore it from a copy, or give the artefact up: {removing(store, name)} and then {making(store, name)} again"
    )


def repairing(store: Path) -> str:
    """`ntksel info med --repair`."""
    return f"`ntksel info {_word(store)} --repair`"


def _word(path: Path) -> str:
    return shlex.quote(str(path))
