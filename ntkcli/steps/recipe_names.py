"""Whether the names in a recipe stand for something: what an earlier step makes, or the store has already.

So that a slip in the last step is found before the first one has run for hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import store
from ntkcli.errors import UsageError
from ntkcli.steps.recipe import Recipe, Step

MAKES: Final = {"featurize": "datasets", "score": "scores", "select": "selections", "finetune": "runs"}
"""Verb → the kind of what its `name` names."""
NAMES: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("featurize", "rows"): ("selections",),
    ("featurize", "adapter"): ("runs",),
    ("score", "pool"): ("datasets",),
    ("score", "domain"): ("datasets",),
    ("score", "rows"): ("selections",),
    ("score", "combine"): ("scores",),
    ("score", "match-length"): ("selections", "datasets"),
    ("select", "score"): ("scores",),
    ("explain", "selection"): ("selections",),
    ("finetune", "train"): ("selections", "datasets"),
    ("finetune", "init-adapter"): ("runs",),
    ("finetune", "match-tokens"): ("runs",),
    ("eval", "run"): ("runs",),
}
"""Option → the kinds of artefacts that its values name."""
MAY_BE_FILES: Final = {("featurize", "adapter"), ("finetune", "train"), ("finetune", "init-adapter"), ("eval", "run")}


def check_names(recipe: Recipe) -> None:
    """UsageError for the first name that no earlier step makes and the store doesn't have."""
    made: dict[str, set[str]] = {}
    for number, step in enumerate(recipe.steps):
        known = made.setdefault(step.store, _in_store(step.store))
        for key, name, kinds in _names(step):
            if not any(_stands(f"{kind}/{name}", known) for kind in kinds):
                have = [path.partition("/")[2] for path in sorted(known) if path.partition("/")[0] in kinds]
                near = get_close_matches(name, have, n=1, cutoff=0.5)
                raise UsageError(
                    f"{recipe.where(number, key)}: no earlier step makes {kinds[0]}/{name}, and the store "
                    f"{step.store} has none.",
                    f"Do you mean {near[0]!r}?" if near else f"There are: {', '.join(have) or 'none'}.",
                )
        if step.verb in MAKES and step.name:
            known.add(f"{MAKES[step.verb]}/{step.name}")


def _names(step: Step) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The key, name and kinds of every artefact that a step reads; what may be a file is passed over."""
    for key, value in step.values.items():
        kinds = NAMES.get((step.verb, key))
        for item in _items(value) if kinds else []:
            name = str(item).partition("=")[0] if key == "train" else str(item)
            is_file = "/" in name or bool(Path(name).suffix) or ":" in name or Path(name).exists() or name == "base"
            if not (is_file and (step.verb, key) in MAY_BE_FILES):
                yield key, name, kinds or ()


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _stands(path: str, known: set[str]) -> bool:
    """Whether it is known, a run also as one seed (`NAME.s0`) of one that is."""
    return path in known or re.sub(r"\.s\d+$", "", path) in known


def _in_store(path: str) -> set[str]:
    if not (Path(path) / "store.json").exists():
        return set()
    stored = store.Store.open(path)
    return {artefact.name for kind in store.Kind for artefact in stored.artefacts(kind)}
