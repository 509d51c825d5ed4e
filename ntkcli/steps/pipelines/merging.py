"""Score steps of one feature as one command, which reads the pool's features once. Pure; knows steps alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ntkcli.steps.pipelines.recipe import Step
from ntkcli.steps.scores.feature_pass import SHARE_A_PASS


def merge_scores(steps: Sequence[Step]) -> list[Step]:
    """The steps, each score moved up to the first one that differs from it in nothing but method and name.

    What that one reads is there by then, and it reads the same; every score has the same spec and bytes as alone.
    """
    found: list[Step] = []
    for step in steps:
        own = list(_methods(step))
        for i, earlier in enumerate(found):
            before = list(_methods(earlier))
            if own and before and _rest(step) == _rest(earlier) and _all_differ([*before, *own]):
                methods = [f"{method}={name}" for method, name in (*before, *own)]
                found[i] = replace(earlier, values={**_rest(earlier)[2], "method": methods})
                break
        else:
            found.append(step)
    return found


def _methods(step: Step) -> Iterator[tuple[str, str]]:
    """(method, name) of each score of a step; none if it is not of scores that can share a pass."""
    given = step.values.get("method", ())
    pairs = [str(each).partition("=") for each in (given if isinstance(given, list) else [given])]
    found = [(method, name or step.name) for method, _, name in pairs]
    if step.verb == "score" and all(method in SHARE_A_PASS and name for method, name in found):
        yield from found


def _all_differ(pairs: Sequence[tuple[str, str]]) -> bool:
    return all(len(set(words)) == len(pairs) for words in zip(*pairs, strict=True))


def _rest(step: Step) -> tuple[str, str, dict[str, Any]]:
    return step.verb, step.store, {key: value for key, value in step.values.items() if key not in ("method", "name")}
