"""How far sketched kernel values and the ranks of scores are from exact ones, by the size of the sketch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ntkcli.choices import Kind
from ntkcli.errors import NtkselError
from ntkcli.progress import Progress
from ntkcli.statistics.correlation import resampled_spearmans, spearman
from ntkcli.statistics.resampling import Floats, interval, item_counts
from ntkcli.steps.diagnosis.findings import Check, Cost, Finding, Line, Lines
from ntkcli.steps.diagnosis.request import Request
from ntkcli.steps.diagnosis.sample import Setup, Side, cost_of, draw_sides, last_layers
from ntkcli.steps.diagnosis.vectors import feature_settings, feature_spec, model_use
from ntkcli.steps.features.settings import FeatureSettings
from ntkcli.steps.shared.model_settings import note_conversion

ROWS, DOMAIN_ROWS, MAX_LENGTH = 64, 8, 128
"""The domain's gradients are held whole: 8 of an adapter of 42 million parameters take 1.3 GiB."""
SEEDS: Final = (0, 1, 2)
GOOD: Final = 0.95
"""A rank correlation from which a sketch is called good enough: of the best tenth, about nine in ten rows stay."""


def sketch(request: Request, *, progress: Progress) -> Finding:
    """Compare sketches of each size, three seeds each, with exact kernel values. A pass over some dozen rows."""
    setup, sides = draw_sides(request.stored(), request, rows=ROWS, domain_rows=DOMAIN_ROWS, max_length=MAX_LENGTH)
    progress.note(str(_cost(request, setup, sides)))
    exact, sketched = _kernels(request, setup, sides, progress)
    checks = [_check(p, exact, sketched[p]) for p in request.dims]
    take, smallest = _choice(checks, len(exact))
    lines = [
        Line(
            "Spearman of scores",
            [float(p) for p in request.dims],
            [one.details["spearman"] for one in checks],
            [one.details["spearman_low"] for one in checks],
            [one.details["spearman_high"] for one in checks],
        ),
        Line(
            "relative error of kernel values",
            [float(p) for p in request.dims],
            [one.value for one in checks],
            [one.low for one in checks],
            [one.high for one in checks],
        ),
    ]
    last = checks[-1]
    checks[-1] = Check(last.name, last.subject, last.value, last.low, last.high, f"{last.sentence} {take}",
                       {**last.details, "enough": smallest})  # fmt: skip
    panel = Lines("Sketched against exact", "size of the sketch, p", "", lines, log_x=True)
    basis = {
        **feature_spec(request, setup, _settings(request, setup), setup.adapter), "dims": list(request.dims),
        "seeds": list(SEEDS), "sides": [side.spec for side in sides],
    }  # fmt: skip
    return Finding(tuple(checks), (panel,), basis, skipped=sum(side.skipped for side in sides))


def _choice(checks: Sequence[Check], rows: int) -> tuple[str, int | None]:
    """Which size to take, in words, and the size: the smallest that surely keeps the order of the rows, or None."""
    what = f"keeps the order of the rows (Spearman {GOOD} or more)"
    if good := [int(one.details["dim"]) for one in checks if one.details["spearman_low"] >= GOOD]:
        return f"--dim {min(good)} is enough here: it {what}.", min(good)
    if any(one.details["spearman_high"] >= GOOD for one in checks):
        return f"Whether a size tried {what} is open with {rows} rows: give more --rows, or larger --dims.", None
    return f"No size tried {what}: give larger --dims.", None


def sketch_cost(request: Request) -> Cost:
    """What it would take."""
    setup, sides = draw_sides(request.stored(), request, rows=ROWS, domain_rows=DOMAIN_ROWS, max_length=MAX_LENGTH)
    return _cost(request, setup, sides)


def _cost(request: Request, setup: Setup, sides: tuple[Side, ...]) -> Cost:
    layers = request.layers or last_layers(setup)
    return cost_of("sketch", setup, sides, device=request.device, passes=1, layers=layers)


def _settings(request: Request, setup: Setup) -> FeatureSettings:
    layers = request.layers or last_layers(setup)
    return feature_settings(request, kind=Kind.NTK, probe=request.probe, layers=layers)


def _kernels(
    request: Request, setup: Setup, sides: tuple[Side, Side], progress: Progress
) -> tuple[Floats, dict[int, list[Floats]]]:
    """(n, m) kernel values of pool rows with domain rows: exact, and of each size by seed."""
    from ntkcli.engine.features.extract import adapted_layers
    from ntkcli.engine.features.sketched_kernels import SketchedKernels
    from ntkcli.engine.models.loading import load_model

    settings = _settings(request, setup)
    note_conversion(setup.model, progress)
    loaded = load_model(setup.model, dtype=model_use(request, setup).settle_dtype(None), device=request.device)
    layers = adapted_layers(loaded, model=setup.model, adapter=setup.adapter, settings=settings.gradient(None))
    tried = [(p, seed) for p in request.dims for seed in SEEDS]
    engine = SketchedKernels(loaded, layers, probe=request.probe, sketches=tried, batch_tokens=request.batch_tokens)
    progress.start("sketch", total=sum(len(side.rows) for side in sides), unit="rows")

    def on_batch(rows: int, tokens: int) -> None:
        progress.advance(rows, tokens=tokens)

    engine.learn(sides[0].encoded, on_batch=on_batch)
    exact, *others = engine.kernels(sides[1].encoded, on_batch=on_batch)
    progress.stop()
    if not all(np.isfinite(each).all() for each in (exact, *others)):
        raise NtkselError("The kernel values of some rows are not finite.", "Give --dtype float32.")
    found: dict[int, list[Floats]] = {p: [] for p in request.dims}
    for (p, _), values in zip(tried, others, strict=True):
        found[p].append(values)
    return exact, found


def _check(p: int, exact: Floats, by_seed: Sequence[Floats]) -> Check:
    """Relative error (root mean square) of kernel values and Spearman of mean scores; intervals are over pool rows."""
    squares = np.mean([((one - exact) ** 2).mean(axis=1) for one in by_seed], axis=0)
    sizes = (exact**2).mean(axis=1)
    value = float(np.sqrt(squares.sum() / sizes.sum()))
    rng = np.random.default_rng(0)
    resampled = [np.sqrt(counts @ squares / (counts @ sizes)) for counts in item_counts(len(squares), rng)]
    low, high = interval(np.concatenate(resampled))
    scores = [one.mean(axis=1) for one in (exact, *by_seed)]
    ranks = [spearman(scores[0], one) for one in scores[1:]]
    rank = float(np.mean(ranks))
    rank_low, rank_high = interval(np.mean([resampled_spearmans(scores[0], one) for one in scores[1:]], axis=0))
    return Check(
        "sketch",
        f"p = {p}",
        value,
        low,
        high,
        f"A sketch of {p:,} numbers has an error of {value:.1%} in kernel values (95% {low:.1%} to {high:.1%}) and "
        f"ranks {len(exact)} rows as the exact score does by {rank:.3f} (Spearman, 95% {rank_low:.3f} to "
        f"{rank_high:.3f}).",
        {"dim": p, "spearman": rank, "spearman_low": rank_low, "spearman_high": rank_high, "lowest_seed": min(ranks)},
    )
