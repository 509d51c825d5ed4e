"""Whether names and files in a recipe stand for something: what an earlier step makes, or what is there already.

So that a slip in the last step is found before the first one has run for hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import store
from ntkcli.data.find_source import find_source
from ntkcli.data.tasks.reference import names_task
from ntkcli.data.tasks.source import for_evaluation
from ntkcli.errors import UsageError
from ntkcli.steps.pipelines.recipe import Recipe, Step

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
NAME_FILES: Final = {("score", "pool"), ("score", "domain")}
"""Options that also take NAME=FILE, which makes the data set NAME."""
FILES: Final = {("featurize", "data"), ("finetune", "train"), ("eval", "task"), ("eval", "retain"), *NAME_FILES}
"""Options whose values, where they are no such names, are data: `ntkcli.data.sources`."""
ELSEWHERE: Final = ("lm_eval:", "-")
"""How references begin whose rows are no file of these."""


def check_names(recipe: Recipe) -> None:
    """UsageError for the first name or data file that no earlier step makes and that isn't there."""
    made: dict[str, set[str]] = {}
    exported: set[str] = set()
    for number, step in enumerate(recipe.steps):
        _check_files(recipe, number, exported)
        exported |= {str(step.values["export"])} if "export" in step.values else set()
        known = made.setdefault(step.store, _in_store(step.store))
        known |= {f"datasets/{name}" for name in _named_files(step)}
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


def _check_files(recipe: Recipe, number: int, exported: set[str]) -> None:
    """UsageError if a data file of a step is missing and no earlier step writes it."""
    step = recipe.steps[number]
    split = step.values.get("split")
    for key, value in step.values.items():
        for item in map(str, _items(value) if (step.verb, key) in FILES else []):
            path = _path_of(item, key)
            is_name = (key == "train" and _is_name(path)) or ((step.verb, key) in NAME_FILES and "=" not in item)
            if path in exported or path.startswith(ELSEWHERE) or is_name:
                continue
            try:
                find_source(for_evaluation(path) if step.verb == "eval" and not split else path, split=split)
            except UsageError as error:
                raise UsageError(f"{recipe.where(number, key)}: {error.what}", error.mend) from error


def _path_of(item: str, key: str) -> str:
    """The reference without the weight behind it (`REF=0.5`, of --train) or the name before it (`NAME=REF`)."""
    head, equals, tail = item.partition("=")
    if not equals or Path(item).exists():
        return item
    return head if key == "train" else tail


def _is_name(reference: str) -> bool:
    """Whether it may be the name of an artefact: neither a path nor anything with a suffix."""
    return "/" not in reference and not Path(reference).suffix and ":" not in reference


def _names(step: Step) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The key, name and kinds of every artefact that a step reads; what may be a file is passed over."""
    for key, value in step.values.items():
        kinds = NAMES.get((step.verb, key))
        for item in _items(value) if kinds else []:
            name = str(item).partition("=")[0] if key == "train" or (step.verb, key) in NAME_FILES else str(item)
            is_file = not _is_name(name) or Path(name).exists() or name == "base" or names_task(name)
            if not (is_file and (step.verb, key) in MAY_BE_FILES):
                yield key, name, kinds or ()


def _named_files(step: Step) -> Iterator[str]:
    """The names that a step gives to data files."""
    for key, value in step.values.items():
        for name, equals, _ in (str(item).partition("=") for item in _items(value)):
            if equals and (step.verb, key) in NAME_FILES:
                yield name


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
