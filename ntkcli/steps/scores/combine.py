"""Join several scores of one pool into one, by rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import store
from ntkcli.choices import Across
from ntkcli.errors import SpecError, UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.scoring.groups import combine_by_rank
from ntkcli.steps.scores.score import VERSION, ScoreResult, create_score, one_score, result_of, write_score
from ntkcli.steps.shared.environment import begin, environment
from ntkcli.steps.shared.stores import open_store, require_current


def combine(
    store_path: str | Path, *, scores: Sequence[str], name: str, progress: Progress | None = None
) -> ScoreResult:
    """Write `scores/<name>`: the mean rank share of two or more scores of one pool, 1 for the best row.

    Raises:
        UsageError: fewer than two scores. SpecError: they are of different data sets.
    """
    progress = progress or Silent()
    stored = open_store(store_path)
    found = scores_of_one_pool(stored, scores, option="--combine")
    dataset = stored.get(f"datasets/{found[0].attrs['data']}")
    spec = {
        "version": VERSION,
        "method": "combine",
        "data": dataset.spec["digest"],
        "rows": None,
        "scores": sorted(artefact.fingerprint for artefact in found),
    }
    parents = {artefact.name: artefact.fingerprint for artefact in (dataset, *found)}
    artefact = create_score(stored, name, spec, parents, dataset)
    if artefact.complete:
        progress.note(f"{artefact.name} is finished already")
    else:
        begin(artefact, environment(), progress)
        values = [each.read("score").astype(np.float64) for each in found]
        write_score(artefact, one_score(combine_by_rank(values), across=Across.MAX), None)
    return result_of(artefact, "combine")


def scores_of_one_pool(stored: store.Store, names: Sequence[str], *, option: str) -> list[store.Artefact]:
    """Two or more scores, current and of the same rows. UsageError or SpecError if they are not."""
    if len(set(names)) < 2:
        raise UsageError(f"{option} needs two different scores.", f"Give {option} SCORE twice.")
    found = [stored.get(f"scores/{store.check_name(name, option)}") for name in names]
    for artefact in found:
        require_current(stored, artefact)
        if artefact.spec["data"] != found[0].spec["data"]:
            raise SpecError(
                f"{artefact.name} scores the data set {artefact.attrs['data']!r}, "
                f"{found[0].name} {found[0].attrs['data']!r}.",
                "Give scores of the same pool.",
            )
    return found
