"""Which probe agrees with the exact kernel on this model and these rows, and how much of the head is one direction.

Exact is the trace kernel over all outputs, and what softmax sees of it: a backward pass for each number of a hidden
state. They are kept part by part, so a diagnosis that was interrupted goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import store
from ntkcli.choices import Kind
from ntkcli.data import Encoded
from ntkcli.errors import NtkselError
from ntkcli.progress import Progress
from ntkcli.statistics.correlation import correlation, spearman
from ntkcli.statistics.kernels import Rows, forms, pearson_interval, pool_scores
from ntkcli.statistics.resampling import Floats, interval, item_counts
from ntkcli.steps.diagnosis.findings import Check, Cost, Finding, Points
from ntkcli.steps.diagnosis.request import Request
from ntkcli.steps.diagnosis.sample import Setup, Side, cost_of, draw_sides, last_layers
from ntkcli.steps.diagnosis.vectors import VERSION, feature_settings, feature_spec, model_use, name_for
from ntkcli.steps.shared.cost import hidden_size
from ntkcli.steps.shared.environment import begin, model_environment
from ntkcli.steps.shared.model_settings import note_conversion
from ntkcli.steps.shared.stores import open_store

if TYPE_CHECKING:
    from ntkcli.engine.features.trace_kernels import KernelEngine, TraceProbes

ROWS, DOMAIN_ROWS, MAX_LENGTH = 8, 4, 128
"""A dozen rows: each costs as many backward passes as a hidden state has numbers, all in one batch."""
DRAWS: Final = 8
"""Of each random probe: a user's one probe is as good as one of these."""
DRAWN: Final = ("rademacher", "centred")
PROBES: Final = ("sum", *DRAWN)
PART_PROBES: Final = 32


@dataclass(frozen=True, slots=True)
class _Kernels:
    """Kernel matrices (N, N): the exact trace, what softmax sees of it, and the draws of each probe; the head's shares.

    `total`: the kernel of the sum of all outputs, over their number.
    """

    trace: Floats
    centred: Floats
    total: Floats
    probes: dict[str, list[Floats]]
    mean_share: float
    first_share: float


def kernel(request: Request, *, progress: Progress) -> Finding:
    """Compare the kernels of the probes with the exact ones.

    Raises:
        UsageError: the model's logits are not linear in its hidden states. NtkselError: a value is not finite.
    """
    setup, sides = draw_sides(request.stored(), request, rows=ROWS, domain_rows=DOMAIN_ROWS, max_length=MAX_LENGTH)
    artefact = _artefact(open_store(request.store_path, create=True), request, setup, sides, progress)
    found = _kernels(artefact, sum(len(side.rows) for side in sides))
    domain = np.arange(len(sides[0].rows))
    pool = np.arange(len(domain), len(domain) + len(sides[1].rows))
    probes = [_probe(name, found, domain, pool) for name in found.probes]
    best = max((one for one in probes if one.subject in PROBES), key=lambda one: one.value)
    checks = (*probes, _mean_output(found), _choice(best, probes))
    panel = Points(
        "Agreement with the kernel that softmax sees",
        "Pearson correlation of kernel values",
        [one.subject for one in probes],
        [one.value for one in probes],
        [one.low for one in probes],
        [one.high for one in probes],
        mark=1.0,
    )
    return Finding(checks, (panel,), sum(side.skipped for side in sides))


def kernel_cost(request: Request) -> Cost:
    """What it would take."""
    setup, sides = draw_sides(request.stored(), request, rows=ROWS, domain_rows=DOMAIN_ROWS, max_length=MAX_LENGTH)
    return _cost(request, setup, sides)


def _cost(request: Request, setup: Setup, sides: tuple[Side, ...]) -> Cost:
    layers = request.layers or last_layers(setup)
    return cost_of("kernel", setup, sides, device=request.device, passes=_n_probes(setup), layers=layers)


def _n_probes(setup: Setup) -> int:
    """Columns of the head, the sum, the draws, the loss."""
    return hidden_size(setup.model) + 1 + len(DRAWN) * DRAWS + 1


def _artefact(
    stored: store.Store, request: Request, setup: Setup, sides: tuple[Side, Side], progress: Progress
) -> store.Artefact:
    """The kernel matrices of all probes, finished: a row for each."""
    settings = feature_settings(request, kind=Kind.NTK, layers=request.layers or last_layers(setup))
    features = feature_spec(request, setup, settings, setup.adapter)
    for key in ("probe", "probes", "probe_seed", "projection", "store_dtype"):  # none of them matters here
        features.pop(key, None)
    spec = {"version": VERSION, "diagnosis": "kernel", **features, "sides": [side.spec for side in sides]}
    spec["draws"] = DRAWS
    name = name_for("kernel", spec)
    known = stored.find(name)
    if known is not None and known.complete:
        return known
    from ntkcli.engine.features.extract import adapted_layers
    from ntkcli.engine.features.trace_kernels import KernelEngine, TraceProbes, read_head
    from ntkcli.engine.gradients.probes import LogitProbe, LossProbe
    from ntkcli.engine.models.loading import load_model

    progress.note(str(_cost(request, setup, sides)))
    note_conversion(setup.model, progress)
    loaded = load_model(setup.model, dtype=model_use(request, setup).settle_dtype(None), device=request.device)
    head = read_head(loaded)
    layers = adapted_layers(loaded, model=setup.model, adapter=setup.adapter, settings=settings.gradient(None))
    draws = [LogitProbe(loaded.model, each, seed=0, number=k) for each in DRAWN for k in range(DRAWS)]
    probes = TraceProbes(loaded, head, [LogitProbe(loaded.model, "sum"), *draws, LossProbe(loaded.model)])
    encoded = [one for side in sides for one in side.encoded]
    artefact = stored.create(
        name,
        kind=store.Kind.DIAGNOSIS,
        spec=spec,
        parents={},
        n=len(probes),
        part_rows=PART_PROBES,
        arrays={"kernel": store.ArraySpec("float64", (len(encoded) ** 2,))},
        attrs={
            "model": setup.model.reference, "adapter": str(setup.adapter.folder) if setup.adapter else None,
            "outputs": head.outputs, "mean_share": head.mean_share, "first_share": head.first_share,
        },
    )  # fmt: skip
    begin(artefact, model_environment(setup.model, loaded), progress)
    _fill(artefact, KernelEngine(loaded, layers), probes, encoded, progress)
    return artefact


def _fill(
    artefact: store.Artefact, engine: KernelEngine, probes: TraceProbes, rows: list[Encoded], progress: Progress
) -> None:
    """Compute the pending parts; the last probe is the loss, whose positions are others."""
    progress.start(artefact.name, total=artefact.n, unit="passes", done=artefact.rows_done())
    for part in artefact.pending():
        start, stop = artefact.part_bounds(part)
        last = stop == len(probes)
        own, values = probes.some(start, stop), []
        for some, positions in ((own[:-1] if last else own, "completion"), (own[-1:] if last else [], "targets")):
            for one in engine.kernels(rows, some, positions=positions) if some else ():
                values.append(one.ravel())
                progress.advance(1)
        artefact.write_part(part, {"kernel": np.stack(values)})
    progress.stop()


def _kernels(artefact: store.Artefact, rows: int) -> _Kernels:
    each = artefact.read("kernel").reshape(artefact.n, rows, rows)
    if not np.isfinite(each).all():
        raise NtkselError(
            f"{artefact.name}: {int((~np.isfinite(each).all(axis=(1, 2))).sum())} of {artefact.n} kernels are not "
            "finite.",
            "Give --dtype float32.",
        )
    columns = artefact.n - 2 - len(DRAWN) * DRAWS
    centred, summed = each[:columns].sum(axis=0), each[columns]
    probes: dict[str, list[Any]] = {"sum": [summed]}
    for i, name in enumerate(DRAWN):
        start = columns + 1 + i * DRAWS
        probes[name] = list(each[start : start + DRAWS])
    probes["loss"] = [each[-1]]
    total = summed / artefact.attrs["outputs"]
    return _Kernels(
        centred + total, centred, total, probes, artefact.attrs["mean_share"], artefact.attrs["first_share"]
    )


def _probe(name: str, found: _Kernels, domain: Rows, pool: Rows) -> Check:
    """Agreement of one probe: mean over its draws, the lowest of them, and the same against the whole trace."""
    draws, above = found.probes[name], np.triu_indices(len(found.trace), k=1)
    with_seen, with_trace = (
        [correlation(one[above], exact[above]) for one in draws] for exact in (found.centred, found.trace)
    )
    ranks = {
        label: float(np.mean([_ranking(one, exact, domain, pool) for one in draws]))
        for label, exact in (("softmax", found.centred), ("trace", found.trace))
    }
    low, high = pearson_interval(draws, found.centred)
    value = float(np.mean(with_seen))
    drawn = f" (mean of {len(draws)} draws, the lowest {min(with_seen):.2f})" if len(draws) > 1 else ""
    return Check(
        "kernel",
        name,
        value,
        low,
        high,
        f"{name}: its kernel values correlate {value:.2f}{drawn} with the exact kernel that softmax sees (95% "
        f"{low:.2f} to {high:.2f}), {float(np.mean(with_trace)):.2f} with the trace of all logits.",
        {
            "lowest": min(with_seen),
            "draws": len(draws),
            "pearson_trace": float(np.mean(with_trace)),
            "spearman_scores": ranks["softmax"],
            "spearman_scores_trace": ranks["trace"],
        },
    )


def _ranking(found: Floats, exact: Floats, domain: Rows, pool: Rows) -> float:
    """Spearman of the pool rows' centred cosine scores, as `--method cosine --centre` has them."""
    one, other = (pool_scores(forms(each, pool)["centred"], domain=domain, pool=pool) for each in (found, exact))
    return spearman(one, other)


def _mean_output(found: _Kernels) -> Check:
    """How much of the trace's diagonal is the mean output's, with an interval over rows; and of the head's rows."""
    seen, whole = np.diagonal(found.total), np.diagonal(found.trace)
    value = float(seen.sum() / whole.sum())
    rng = np.random.default_rng(0)
    low, high = interval(np.concatenate([counts @ seen / (counts @ whole) for counts in item_counts(len(seen), rng)]))
    return Check(
        "kernel",
        "one direction",
        value,
        low,
        high,
        f"{value:.0%} of the trace kernel (95% {low:.0%} to {high:.0%}) is the mean output's, which softmax does not "
        f"see; {found.mean_share:.0%} of the head's rows lie along their mean, {found.first_share:.0%} along their "
        "first direction.",
        {"head_mean_share": found.mean_share, "head_first_share": found.first_share},
    )


def _choice(best: Check, probes: list[Check]) -> Check:
    """Which probe to take; those whose interval holds the best one's value can't be told from it."""
    close = [one.subject for one in probes if one.subject in PROBES and one is not best and one.high >= best.value]
    sentence = f"Take --probe {best.subject}: of sum, rademacher and centred it agrees best with what softmax sees."
    if close:
        sentence += f" These few rows don't separate it from {' or '.join(close)}; more --rows and --domain-rows may."
    return Check("kernel", f"take {best.subject}", best.value, best.low, best.high, sentence, {"probe": best.subject})
