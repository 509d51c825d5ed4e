"""The commands of `ntksel` that do what a store's errors ask for; the store itself knows no commands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

import store
from store.layout import Kind, kind_of

_VERBS: Final[dict[Kind, tuple[str, tuple[str, ...]]]] = {  # kind -> verb, the options that name its artefact
    Kind.DATASET: ("featurize", ("--name",)),
    Kind.FEATURES: ("featurize", ("--name", "--feature")),
    Kind.SCORE: ("score", ("--name",)),
    Kind.SELECTION: ("select", ("--name",)),
    Kind.RUN: ("finetune", ("--name",)),
    Kind.EVAL: ("eval", ("--name", "--run")),
    Kind.TOKENS: ("featurize", ("--name",)),
    Kind.VALIDATION: ("validate", ("--name",)),
}


def message(error: store.StoreError) -> str:
    """What a store's error says, with its fix as commands. Without a full stop."""
    return f"{error.what}; {worded(error.fix)}"


def worded(fix: str | store.Fix) -> str:
    """A fix with its actions as commands: "run `ntksel info med --repair`, which writes it again"."""
    return fix if isinstance(fix, str) else fix.worded(_command)


def making(store_path: Path, name: str) -> str:
    """`ntksel featurize med --name pool --feature ntk ...`: the command that made the artefact, in outline."""
    verb, options = _VERBS[kind_of(name)]
    given = " ".join(map(" ".join, zip(options, name.split("/")[1:], strict=False)))
    return f"`ntksel {verb} {_word(store_path)} {given} ...`"


def removing(store_path: Path, name: str) -> str:
    """`ntksel rm med features/pool/ntk`."""
    return f"`ntksel rm {_word(store_path)} {name}`"


def repairing(store_path: Path) -> str:
    """`ntksel info med --repair`."""
    return f"`ntksel info {_word(store_path)} --repair`"


def _command(do: store.Do) -> str:
    match do.action:
        case store.Action.CREATE:
            return f"`ntksel featurize {_word(do.path)} ...`"
        case store.Action.REPAIR:
            return repairing(do.path)
        case store.Action.REMOVE:
            return removing(do.path, do.artefact)
        case store.Action.MAKE:
            return making(do.path, do.artefact)


def _word(path: Path) -> str:
    return shlex.quote(str(path))
