"""What diagnoses found, kept in the store for a report, as `diagnoses/<diagnosis>-result-<digest>`.

The digest is of all that decides the figures, so the same diagnosis again finds its own result there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

import store
from ntkcli.finite import finite
from ntkcli.progress import Progress
from ntkcli.steps.diagnosis.findings import Check, Distributions, Finding, Line, Lines, Panel, Points
from ntkcli.steps.diagnosis.vectors import VERSION, name_for
from ntkcli.steps.shared.environment import begin, environment
from ntkcli.steps.shared.stores import write_rows

FIGURES: Final = ("value", "low", "high")
_PANELS: Final[dict[str, type[Lines | Points | Distributions]]] = {
    kind.__name__.lower(): kind for kind in (Lines, Points, Distributions)
}


def keep(stored: store.Store, check: str, finding: Finding, *, options: Mapping[str, Any], progress: Progress) -> None:
    """Keep what the diagnosis `check` found with these `options`; a result that says the same stays as it is."""
    parents = {parent.name: parent.fingerprint for parent in finding.parents}
    spec = {"version": VERSION, "diagnosis": check, "result": dict(finding.basis), "parents": parents}
    said = finite({
        "checks": [{"subject": one.subject, "sentence": one.sentence, "details": one.details}
                   for one in finding.checks],
        "panels": [{"kind": type(panel).__name__.lower(), "panel": panel} for panel in finding.panels],
        "options": {name: str(value) if isinstance(value, str | Path) else value for name, value in options.items()},
        "skipped": finding.skipped,
    })  # fmt: skip
    name = name_for(f"{check}-result", spec)
    known = stored.find(name)
    if known is not None and known.complete and all(known.attrs.get(key) == value for key, value in said.items()):
        return
    try:
        if known is not None:  # worded otherwise by another version, or cut short
            stored.remove(name)
        artefact = stored.create(
            name,
            kind=store.Kind.DIAGNOSIS,
            spec=spec,
            parents=parents,
            n=len(finding.checks),
            part_rows=len(finding.checks),
            arrays={figure: store.ArraySpec("float64") for figure in FIGURES},
            attrs=said,
        )
        begin(artefact, environment(), progress)
        write_rows(
            artefact,
            {figure: np.array([getattr(one, figure) for one in finding.checks], np.float64) for figure in FIGURES},
        )
    except OSError as error:  # a store that can't be written; what was found is shown all the same
        progress.note(f"The result is not kept for `ntksel report`: {error}")


def is_result(artefact: store.Artefact) -> bool:
    """Whether the artefact of a diagnosis is what it found, and not what it computed on the way."""
    return "result" in artefact.spec


def kept(artefact: store.Artefact) -> tuple[tuple[Check, ...], tuple[Panel, ...]]:
    """The checks and panels of a result. What the artefact lacks raises KeyError, TypeError or ValueError."""
    figures = (artefact.read(figure).tolist() for figure in FIGURES)
    checks = tuple(
        Check(str(artefact.spec["diagnosis"]), said["subject"], value, low, high, said["sentence"], said["details"])
        for said, value, low, high in zip(artefact.attrs["checks"], *figures, strict=True)
    )
    return checks, tuple(_panel(each["kind"], each["panel"]) for each in artefact.attrs["panels"])


def _panel(kind: str, fields: dict[str, Any]) -> Panel:
    if kind == "lines":
        fields = {**fields, "lines": [Line(**_numbers(line)) for line in fields["lines"]]}
    return _PANELS[kind](**_numbers(fields))


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields with NaN where a list of numbers has null."""
    return {
        name: [np.nan if item is None else item for item in value] if isinstance(value, list) else value
        for name, value in fields.items()
    }
