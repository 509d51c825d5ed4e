"""Whether the kernel, and the ranks of scores by it, stay as a model is fine-tuned, and from seed to seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np

import store
from ntkcli.choices import Kind
from ntkcli.errors import SpecError, UsageError
from ntkcli.identity import resolve_adapter, resolve_model
from ntkcli.progress import Progress
from ntkcli.statistics.correlation import resampled_spearmans, spearman
from ntkcli.statistics.kernels import FORMS, Rows, agreement, forms, pool_scores, scores_agree
from ntkcli.statistics.resampling import Floats, interval
from ntkcli.steps.diagnosis.findings import Check, Cost, Finding, Line, Lines
from ntkcli.steps.diagnosis.request import Request
from ntkcli.steps.diagnosis.sample import Setup, Side, cost_of, draw_side, set_up
from ntkcli.steps.diagnosis.vectors import feature_settings, vectors
from ntkcli.steps.shared.stores import open_store

ROWS, DOMAIN_ROWS, MAX_LENGTH = 64, 32, 1024
FORM: Final = "centred"
"""Of the scores: as `score --method cosine --centre`, the default of `arms`."""
_STAY: Final = ((0.9, "stays"), (0.7, "mostly stays"), (-1.0, "does not stay"))


@dataclass(frozen=True, slots=True)
class _Point:
    """An adapter of a run: after so many steps, or its final one (`steps` None)."""

    run: str
    steps: int | None
    folder: Path


@dataclass(frozen=True, slots=True)
class _Work:
    """What is compared: the points by run, the model's setup, the rows."""

    points: dict[str, list[_Point]]
    setup: Setup
    sides: tuple[Side, Side]


def stability(request: Request, *, progress: Progress) -> Finding:
    """Compare the kernels of a run's kept checkpoints with its first one's, and those of several runs with each other.

    Raises:
        UsageError: there is nothing to compare: one run that kept no checkpoints.
        SpecError: the runs are of different models.
    """
    stored = open_store(request.store_path)
    work = _work(stored, request)
    progress.note(str(_cost(request, work)))
    kernels = {point: _kernel(stored, request, work, point, progress)
               for points in work.points.values() for point in points}  # fmt: skip
    domain = np.arange(len(work.sides[0].rows))
    pool = np.arange(len(domain), len(domain) + len(work.sides[1].rows))
    checks, lines = [], []
    for run, points in work.points.items():
        steps = [point for point in points if point.steps is not None]
        if len(steps) > 2:
            check, own = _over_steps(run, [(int(p.steps or 0), kernels[p]) for p in steps], domain, pool)
            checks.append(check)
            lines += own
    finals = {run: kernels[points[-1]] for run, points in work.points.items()}
    if len(finals) > 1:
        checks.append(_over_runs(finals, domain, pool))
    panels = (Lines("The order of the pool's rows while the model is trained", "steps taken",
                    "Spearman with the first checkpoint", lines),) if lines else ()  # fmt: skip
    return Finding(tuple(checks), panels, sum(side.skipped for side in work.sides))


def stability_cost(request: Request) -> Cost:
    """What it would take."""
    return _cost(request, _work(open_store(request.store_path), request))


def _cost(request: Request, work: _Work) -> Cost:
    times = sum(map(len, work.points.values()))
    return cost_of("stability", work.setup, work.sides, device=request.device, passes=1, times=times)


def _work(stored: store.Store, request: Request) -> _Work:
    runs = [run for name in request.run for run in _runs(stored, name)]
    runs = list({run.name: run for run in runs}.values())
    points = {run.name.partition("/")[2]: _points(stored, run.name.partition("/")[2]) for run in runs}
    if len(points) == 1 and len(next(iter(points.values()))) < 4:
        name = next(iter(points))
        raise UsageError(
            f"runs/{name} kept no checkpoints to compare, and there is only one run.",
            f"Run `ntksel finetune {stored.path} ... --name {name} --keep-checkpoints` with its options again, or give "
            "runs of several seeds.",
        )
    model = request.model or str(runs[0].attrs["model"])
    digests = resolve_model(model, trust_remote_code=request.trust_remote_code).spec
    for run in runs:
        if run.spec["model"] != digests:
            raise SpecError(f"{run.name} was trained on another model than {model}.", "Give runs of one --model.")
    setup = set_up(request, model=model, max_length=MAX_LENGTH)
    domain = draw_side(
        stored, request, option="--domain", reference=str(request.domain), count=request.domain_rows or DOMAIN_ROWS,
        encoder=setup.encoder,
    )  # fmt: skip
    pool = draw_side(
        stored, request, option="--pool", reference=str(request.pool), count=request.rows or ROWS, encoder=setup.encoder
    )
    return _Work(points, setup, (domain, pool))


def _runs(stored: store.Store, name: str) -> list[store.Artefact]:
    """The run of a name, or all runs of that group (`finetune --seeds`)."""
    if (run := stored.find(f"runs/{store.check_name(name, '--run')}")) is not None:
        return [run]
    group = [
        run for run in stored.artefacts(store.Kind.RUN, on_damage=lambda _: None) if run.attrs.get("group") == name
    ]
    return group or [stored.get(f"runs/{name}")]


def _points(stored: store.Store, run: str) -> list[_Point]:
    from ntkcli.engine.training.checkpoints import kept_steps

    folder = stored.adapter_path(run)
    return [*(_Point(run, steps, path) for steps, path in kept_steps(folder).items()), _Point(run, None, folder)]


def _kernel(stored: store.Store, request: Request, work: _Work, point: _Point, progress: Progress) -> Floats:
    """The raw kernel matrix of the domain's rows and then the pool's; rows that are not finite have none."""
    adapter = resolve_adapter(str(point.folder), adapters=stored.path / "adapters", option="--run")
    settings = feature_settings(request, kind=Kind.NTK, probe=request.probe)
    found = vectors(
        stored, "stability", work.sides, request=request, setup=work.setup, adapter=adapter, settings=settings,
        progress=progress,
    )  # fmt: skip
    raw = np.nan_to_num(found.raw)
    kernel: Floats = raw @ raw.T
    return kernel


def _over_steps(run: str, points: Sequence[tuple[int, Floats]], domain: Rows, pool: Rows) -> tuple[Check, list[Line]]:
    """The kept checkpoints against the first one behind the start: a short warm-up, as scores are made with."""
    by_form = [(steps, forms(kernel, pool)) for steps, kernel in points]
    start, (first, reference), *later = by_form
    agreements = {
        form: {steps: agreement(made[form], reference[form], domain=domain, pool=pool) for steps, made in later}
        for form in FORMS
    }
    last = later[-1][0]
    found = scores_agree(later[-1][1][FORM], reference[FORM], domain=domain, pool=pool)
    with_start = scores_agree(start[1][FORM], reference[FORM], domain=domain, pool=pool)
    lowest = min(agreements[FORM], key=lambda steps: agreements[FORM][steps].spearman)
    how = next(word for least, word in _STAY if found.value >= least)
    sentence = (
        f"{run}: from step {first} to step {last} the order of the pool's rows {how}: Spearman {found.value:+.2f} (95% "
        f"{found.low:+.2f} to {found.high:+.2f}), lowest {agreements[FORM][lowest].spearman:+.2f} at step {lowest}; "
        f"cos_F of the kernels is {agreements[FORM][last].cos_f:.3f}. Before the first step the order agrees with that "
        f"of step {first} by {with_start.value:+.2f}."
    )
    if found.value < _STAY[0][0]:
        sentence += " So score with the adapter of a short warm-up, and with the same one for pool and domain."
    curve = [
        {
            "steps": steps,
            **{f"cos_f_{form}": agreements[form][steps].cos_f for form in FORMS},
            **{f"spearman_{form}": agreements[form][steps].spearman for form in FORMS},
        }
        for steps, _ in later
    ]
    lines = [
        Line(
            f"{run}, {label}",
            [float(steps) for steps, _ in later],
            [agreements[form][steps].spearman for steps, _ in later],
        )
        for form, label in (("raw", "raw mean"), (FORM, "centred cosine"))
    ]
    details = {"against": first, "before_first_step": with_start.value, "checkpoints": curve}
    return Check("stability", run, found.value, found.low, found.high, sentence, details), lines


def _over_runs(kernels: dict[str, Floats], domain: Rows, pool: Rows) -> Check:
    """Final adapters of several runs with each other: the mean over all pairs, with an interval over pool rows."""
    made = {run: forms(kernel, pool) for run, kernel in kernels.items()}
    scores = {run: pool_scores(each[FORM], domain=domain, pool=pool) for run, each in made.items()}
    pairs = list(combinations(scores, 2))
    each = [spearman(scores[a], scores[b]) for a, b in pairs]
    low, high = interval(np.mean([resampled_spearmans(scores[a], scores[b]) for a, b in pairs], axis=0))
    cos_f = [agreement(made[a][FORM], made[b][FORM], domain=domain, pool=pool).cos_f for a, b in pairs]
    value = float(np.mean(each))
    how = next(word for least, word in _STAY if value >= least)
    sentence = (
        f"Over {len(scores)} runs the order of the pool's rows {how}: Spearman {value:+.2f} on average (95% {low:+.2f} "
        f"to {high:+.2f}), lowest {min(each):+.2f}; cos_F of the kernels is {float(np.mean(cos_f)):.3f}."
    )
    if value < _STAY[0][0]:
        sentence += " A score by one run's adapter is partly chance: combine the scores of several (`score --combine`)."
    details = {
        "runs": list(scores),
        "pairs": [{"runs": list(pair), "spearman": rho, "cos_f": cos} for pair, rho, cos in zip(pairs, each, cos_f,
                                                                                                strict=True)],
    }  # fmt: skip
    return Check("stability", "runs", value, low, high, sentence, details)
