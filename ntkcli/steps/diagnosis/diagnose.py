"""Run one diagnosis, or all that the options are enough for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import store
from ntkcli.errors import IncompleteError, UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.steps.diagnosis.findings import Check, Cost, Finding, Panel
from ntkcli.steps.diagnosis.kernel import kernel, kernel_cost
from ntkcli.steps.diagnosis.length import length, length_cost
from ntkcli.steps.diagnosis.regression import regression, regression_cost
from ntkcli.steps.diagnosis.request import USES, Request, check_request, missing
from ntkcli.steps.diagnosis.sketch import sketch, sketch_cost
from ntkcli.steps.diagnosis.stability import stability, stability_cost
from ntkcli.steps.diagnosis.supply import supply, supply_cost
from ntkcli.steps.shared.release import frees_memory

STEPS: Final[dict[str, tuple[Callable[..., Finding], Callable[[Request], Cost]]]] = {
    "length": (length, length_cost),
    "supply": (supply, supply_cost),
    "kernel": (kernel, kernel_cost),
    "sketch": (sketch, sketch_cost),
    "stability": (stability, stability_cost),
    "regression": (regression, regression_cost),
}
"""Diagnosis → what runs it, and what finds out its cost."""
_MISSING: Final = (
    *(UsageError, IncompleteError),
    *(store.IncompleteError, store.MissingArtefactError, store.NoStoreError),
)
"""What `all` passes over: an input that is not there yet, or options that are for another of the diagnoses."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks, in order. `left_out`: diagnoses that `all` could not run, scores without lengths, and why.

    `skipped`: rows left out.
    """

    checks: tuple[Check, ...]
    left_out: dict[str, str]
    skipped: int


@dataclass(frozen=True, slots=True)
class Costs:
    """What each diagnosis would take."""

    costs: tuple[Cost, ...]
    left_out: dict[str, str]


@frees_memory
def diagnose(
    store_path: str | Path, *, check: str, progress: Progress | None = None, **given: Any
) -> tuple[Diagnosis, list[Panel]]:
    """Run the diagnosis `check`, or `all`; returns what it found, and the panels to draw. `given`: as `Request` has it.

    Raises:
        UsageError: an option is missing, or the diagnosis does not take it.
    """
    progress = progress or Silent()
    names, left_out = _names(check, given)
    found: list[Finding] = []
    for name in names:
        with _passing_over(name, left_out, several=check == "all"):
            request = _request(store_path, name, given, several=check == "all")
            found.append(STEPS[name][0](request, progress=progress))
    if not found:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UsageError(f"These options are enough for no diagnosis ({why}).", "See `ntksel diagnose --help`.")
    for finding in found:
        left_out |= finding.left_out
    checks = tuple(one for finding in found for one in finding.checks)
    panels = [panel for finding in found for panel in finding.panels]
    return Diagnosis(checks, left_out, sum(finding.skipped for finding in found)), panels


def costs(store_path: str | Path, *, check: str, **given: Any) -> Costs:
    """What the same call of `diagnose` would take; nothing is computed or written."""
    names, left_out = _names(check, given)
    found = []
    for name in names:
        with _passing_over(name, left_out, several=check == "all"):
            found.append(STEPS[name][1](_request(store_path, name, given, several=check == "all")))
    return Costs(tuple(found), left_out)


@contextmanager
def _passing_over(name: str, left_out: dict[str, str], *, several: bool) -> Iterator[None]:
    """Of `several` diagnoses one whose input is missing is left out, and the others run."""
    try:
        yield
    except _MISSING as error:
        if not several:
            raise
        left_out[name] = str(error).removesuffix(".")


def _request(store_path: str | Path, name: str, given: dict[str, Any], *, several: bool) -> Request:
    own = {key: value for key, value in given.items() if key in USES[name]}
    if several and "feature" in own:
        own.pop("model", None)  # which is for the others
    return Request(store_path, **own)


def _names(check: str, given: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The diagnoses to run, and those left out with the options that they lack."""
    check_request(check, given)
    if check != "all":
        return [check], {}
    left_out = {name: ", ".join(lacking) for name in STEPS if (lacking := missing(name, given))}
    return [name for name in STEPS if name not in left_out], {
        name: f"it needs {lacking}" for name, lacking in left_out.items()
    }
