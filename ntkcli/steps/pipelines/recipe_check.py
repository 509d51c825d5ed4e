"""Whether names and files in a recipe exist: made by an earlier step, or there already.

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
from ntkcli.data.references import is_there, split_name, split_weight
from ntkcli.data.tasks.reference import names_task
from ntkcli.data.tasks.source import for_evaluation
from ntkcli.errors import UsageError
from ntkcli.paths import home
from ntkcli.steps.pipelines.recipe import Recipe, Step
from ntkcli.steps.shared.sources import BY_SOURCE

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
    ("select", "exclude"): ("selections",),
    ("select", "must-include"): ("selections",),
    ("select", "only"): ("selections",),
    ("select", "match-tokens"): ("selections",),
    ("explain", "selection"): ("selections",),
    ("finetune", "train"): ("selections", "datasets"),
    ("finetune", "then"): ("selections", "datasets"),
    ("finetune", "init-adapter"): ("runs",),
    ("finetune", "match-tokens"): ("runs",),
    ("finetune", "match-steps"): ("runs",),
    ("eval", "run"): ("runs",),
}
"""Option → the kinds of artefacts that its values name."""
MAY_BE_FILES: Final = {
    ("featurize", "adapter"), ("finetune", "train"), ("finetune", "then"), ("finetune", "init-adapter"),
    ("eval", "run"), ("select", "exclude"), ("select", "must-include"), ("select", "only"),
}  # fmt: skip
WEIGHTED: Final = ("train", "then")
"""Options whose values may end in `=N`."""
NAME_FILES: Final = {("score", "pool"), ("score", "domain")}
"""Options that also take NAME=FILE, which makes the data set NAME."""
TESTS: Final = {("eval", "task"), ("eval", "retain"), ("select", "against")}
"""Options whose values are test items."""
FILES: Final = {("featurize", "data"), ("finetune", "train"), ("finetune", "then"), *TESTS, *NAME_FILES}
"""Options whose values, where they are not such names, are data: `ntkcli.data.find_source`."""
ELSEWHERE: Final = ("lm_eval:", "-")
"""How references begin whose rows are not files of these."""


def check_names(recipe: Recipe) -> None:
    """UsageError for the first name or data file that no earlier step makes and that isn't there."""
    made: dict[str, set[str]] = {}
    exported: set[str] = set()
    for number, step in enumerate(recipe.steps):
        known = made.setdefault(home(step.store), _in_store(home(step.store)))
        _check_files(recipe, number, exported, known)
        exported |= {home(str(step.values["export"]))} if "export" in step.values else set()
        known |= {f"datasets/{name}" for name in _named_files(step)}
        for key, name, kinds in _names(step, known):
            if not any(_stands(f"{kind}/{name}", known) for kind in kinds):
                have = [path.partition("/")[2] for path in sorted(known) if path.partition("/")[0] in kinds]
                near = get_close_matches(name, have, n=1, cutoff=0.5)
                raise UsageError(
                    f"{recipe.where(number, key)}: no earlier step makes {kinds[0]}/{name}, and the store "
                    f"{step.store} has none.",
                    f"Do you mean {near[0]!r}?" if near else f"There are: {', '.join(have) or 'none'}.",
                )
        if step.verb in MAKES:
            known |= {f"{MAKES[step.verb]}/{name}" for name in step.names}


def _check_files(recipe: Recipe, number: int, exported: set[str], known: set[str]) -> None:
    """UsageError if a data file of a step is missing and no earlier step writes it."""
    step = recipe.steps[number]
    split = step.values.get("split")
    for key, value in step.values.items():
        for item in map(str, _items(value) if (step.verb, key) in FILES else []):
            path = _path_of(item, key)
            is_name = (key in WEIGHTED and _is_name(path, known)) or ((step.verb, key) in NAME_FILES and path == item)
            if home(path) in exported or path.startswith(ELSEWHERE) or is_name:
                continue
            try:
                is_test = (step.verb, key) in TESTS and not split
                find_source(for_evaluation(path) if is_test else path, split=split)
            except UsageError as error:
                raise UsageError(f"{recipe.where(number, key)}: {error.what}", error.fix) from error


def _path_of(item: str, key: str) -> str:
    """The reference without the weight behind it (`REF=0.5`) or the name before it (`NAME=REF`)."""
    return split_weight(item)[0] if key in WEIGHTED else split_name(item)[1]


def _is_name(reference: str, known: set[str]) -> bool:
    """Whether it is the name of an artefact, or may be one: neither a path nor anything with a suffix."""
    may_be = "/" not in reference and not Path(reference).suffix and ":" not in reference
    return may_be or any(_stands(f"{kind}/{reference}", known) for kind in ("selections", "datasets", "runs"))


def _names(step: Step, known: set[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The key, name and kinds of every artefact that a step reads; files and labels of sources are passed over."""
    for key, value in step.values.items():
        kinds = NAMES.get((step.verb, key))
        for item in _items(value) if kinds else []:
            name = str(item)
            if name.startswith(BY_SOURCE):
                continue
            if key in WEIGHTED:
                name = split_weight(name)[0]
            elif (step.verb, key) in NAME_FILES:
                name = split_name(name)[0] or name
            is_file = not _is_name(name, known) or is_there(name) or name == "base" or names_task(name)
            if not (is_file and (step.verb, key) in MAY_BE_FILES):
                yield key, name, kinds or ()


def _named_files(step: Step) -> Iterator[str]:
    """The names that a step gives to data files."""
    for key, value in step.values.items():
        for name, _ in (split_name(str(item)) for item in _items(value)):
            if name is not None and (step.verb, key) in NAME_FILES:
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
