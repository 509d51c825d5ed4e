"""Select rows by score and features under constraints, and keep the selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Format, Leaks
from ntkcli.progress import Progress, Silent
from ntkcli.selection.registry import SELECTORS
from ntkcli.steps.selections.explain import write_explanations
from ntkcli.steps.selections.export import check_exports, export_rows, export_scores, is_exported
from ntkcli.steps.selections.filter_and_choose import choose_rows
from ntkcli.steps.selections.filters import Listed, names_selection
from ntkcli.steps.selections.push_rows import mix_of, push_rows
from ntkcli.steps.selections.request import EXPONENT, Constraints, Request, Rows, resolve_request
from ntkcli.steps.shared.datasets import moved_data
from ntkcli.steps.shared.environment import begin, environment
from ntkcli.steps.shared.hub_push import check_push
from ntkcli.steps.shared.outputs import Inputs
from ntkcli.steps.shared.stores import DATASET_PART_ROWS, open_store, require_current, require_spec, write_rows

__all__ = ["Constraints", "SelectResult", "select"]


@dataclass(frozen=True, slots=True)
class SelectResult:
    """The artefact, its number of rows out of those scored, the lowest score taken, the mix, and the export.

    `removed` counts, when the selection was made just now, the scored rows that each constraint took out; `listed` is
    what the files of `--exclude` and `--must-include` name. `pool_sources` is the mix of the pool's usable rows.
    """

    artefact: str
    rows: int
    scored: int
    lowest: float
    sources: dict[str, int]
    export: str | None
    digest: str
    removed: dict[str, int] = field(default_factory=dict)
    listed: tuple[Listed, ...] = ()
    hub: str | None = None
    pool_sources: dict[str, int] = field(default_factory=dict)


def select(
    store_path: str | Path, *, score: str, n: int | Literal["auto"] | None, name: str, method: str = "top",
    exponent: float = EXPONENT, constraints: Constraints | None = None, feature: str | None = None,
    domain: Sequence[str] = (), centre: bool = False, export: str | Path | None = None, schema: Format = Format.OWN,
    scores_export: str | Path | None = None, force: bool = False, data: Sequence[str] = (), explain: bool = False,
    push_to_hub: str | None = None, public: bool = False, progress: Progress | None = None,
) -> SelectResult:  # fmt: skip
    """Write `selections/<name>`: `n` rows of the pool of `scores/<score>` in rank order, and export them.

    `n` "auto" stops when a further row gains less than 5% of the first; None takes what fits `token_budget`, which also
    ends a selection of fixed `n` early. Methods: `ntkcli.selection`; all but top compare features, by default those
    that the score was made from, else `feature` and `domain`. Only scored rows are chosen, none twice.

    `export` and `schema` are `export_rows`' path and schema, `scores_export` is a parquet file for all scores of the
    pool; both are refused before anything is chosen, and replace a file that is not ours only with `force`. `data` is
    where the pool's file is now, if it has moved. `explain` writes `reports/<name>-why.jsonl`. `push_to_hub` puts the
    rows (in `schema`) and a card into this repository of the Hub, when all else is done: private, unless `public`.

    Raises:
        UsageError: constraints contradict each other or leave fewer than `n` rows; it says which one, and by how much.
    """
    progress = progress or Silent()
    check_push(push_to_hub, public=public)
    stored = open_store(store_path)
    scores = _current_score(stored, score)
    limits = constraints or Constraints()
    read = Inputs([path for path in map(str, limits.files()) if not names_selection(stored, path)])
    path = f"selections/{store.check_name(name, '--name')}"
    known = stored.find(path)
    exported = export is not None and is_exported(export, known, schema)
    check_exports(stored, None if exported else export, scores_export, read, force=force)
    moved_data(stored, data, default=[str(scores.attrs["data"])])
    how = {"feature": feature, "domains": domain, "centre": centre}
    request = resolve_request(
        stored, scores, method=method, n=n, exponent=exponent, limits=limits, progress=progress, how=how, known=known
    )
    removed: dict[str, int] = {}
    if known is not None and known.complete:
        _require_same(request, known)
        progress.note(f"{known.name} is finished already")
        artefact = known
    else:
        rows, gains, removed = choose_rows(request, name, progress)
        artefact = _write(request, path, rows, gains, progress)
    if export is not None:
        if not exported:
            export_rows(stored, request.dataset, artefact, export, schema=schema, progress=progress)
        progress.note(f"{export} holds these rows already" if exported else f"wrote {export}")
    if scores_export is not None:
        export_scores(stored, request.dataset, scores_export)
        progress.note(f"wrote {scores_export}")
    if explain:
        progress.note(f"wrote {write_explanations(stored, artefact, progress)}")
    hub = None
    if push_to_hub is not None:
        hub = push_rows(stored, request.dataset, artefact, push_to_hub, schema=schema, public=public)
        progress.note(f"pushed to {hub}")
    return replace(_result(request, artefact, export, removed), hub=hub)


def _require_same(request: Request, known: store.Artefact) -> None:
    """Refuse a finished selection of this name that was made from something else."""
    spec = request.spec()
    if not request.tests.given and request.limits.leaks == Leaks.REMOVE:  # evals may have come since
        spec = {key: value for key, value in spec.items() if key != "against"}
        spec |= {"against": known.spec["against"]} if "against" in known.spec else {}
    require_spec(known, spec)
    require_current(request.stored, known)


def _result(
    request: Request, artefact: store.Artefact, export: str | Path | None, removed: dict[str, int]
) -> SelectResult:
    return SelectResult(
        artefact=artefact.name,
        rows=artefact.n,
        scored=int((~np.isnan(request.scores.read("score"))).sum()),
        lowest=float(np.nanmin(artefact.read("score"))),
        sources=mix_of(request.dataset, request.dataset.take("source", artefact.read("row"))),
        export=None if export is None else str(export),
        digest=artefact.digest(),
        removed={option: count for option, count in removed.items() if count},
        listed=request.listed,
        pool_sources=mix_of(
            request.dataset,
            request.dataset.read("source")[request.dataset.read("status") < store.RowStatus.UNREADABLE],
        ),
    )


def _current_score(stored: store.Store, name: str) -> store.Artefact:
    """The score to select by, if what it was made from has not changed and its plug-in is there."""
    scores = stored.get(f"scores/{store.check_name(name, '--score')}")
    require_current(stored, scores)
    return scores


def _write(request: Request, path: str, rows: Rows, gains: NDArray[np.float64], progress: Progress) -> store.Artefact:
    arrays = {"row": store.ArraySpec("int64"), "score": store.ArraySpec("float32")}
    values = {"row": rows, "score": request.scores.read("score")[rows]}
    selector = SELECTORS.get(request.method)
    if selector.keeps_gains:
        arrays["gain"] = store.ArraySpec("float32")
        values["gain"] = gains.astype(np.float32)
    parents = {request.scores.name: request.scores.fingerprint} | (request.features.parents if request.features else {})
    artefact = request.stored.create(
        path,
        kind=store.Kind.SELECTION,
        spec=request.spec(),
        parents=parents,
        n=len(rows),
        part_rows=DATASET_PART_ROWS,
        arrays=arrays,
        attrs={"data": request.data},
    )
    begin(artefact, environment(*selector.packages, *SELECTORS.packages(request.method)), progress)
    write_rows(artefact, values)
    return artefact
