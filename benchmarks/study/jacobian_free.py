"""The exact trace kernel of all outputs (`ntkcli.engine.features.trace_kernels`), what single backward passes make of
it, and how nearly orthogonal the gradients of outputs are.

Legend: B rows, D hidden size, V outputs.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ntkcli.data import DataFile, Encoded, Encoder, Row
from ntkcli.engine.features.trace_kernels import AnyProbe, HiddenProbe, KernelEngine, TraceProbes, read_head
from ntkcli.engine.gradients.probes import LogitProbe
from ntkcli.engine.models.adapters import AdaptedLayer, fresh_adapter, load_adapter, only_layers
from ntkcli.engine.models.loading import LoadedModel, head_of, load_model
from ntkcli.identity import resolve_adapter, resolve_model
from ntkcli.statistics.kernels import FORMS, Agreement, Floats, agreement, cosines, forms

GROUP = 4
"""Probes averaged in the tables, beside single ones."""


def trace_kernels(
    loaded: LoadedModel, layers: list[AdaptedLayer], rows: Sequence[Encoded], others: Sequence[AnyProbe] = ()
) -> tuple[Floats, Floats, Floats, list[Floats]]:
    """Exact: the trace, the centred trace, the kernel of the probe `sum`; and that of every other probe given."""
    head = read_head(loaded)
    probes = TraceProbes(loaded, head, [LogitProbe(loaded.model, "sum"), *others])
    found = list(KernelEngine(loaded, layers).kernels(rows, probes.some(0, len(probes))))
    columns = len(probes) - 1 - len(others)
    centred, total = np.sum(found[:columns], axis=0), found[columns]
    return centred + total / head.outputs, centred, total, found[columns + 1 :]


def output_cosines(
    loaded: LoadedModel, layers: list[AdaptedLayer], row: Encoded, count: int, *, seed: int
) -> dict[str, Floats]:
    """Cosines between the gradients of `count` random outputs of one row, as they are and of W less its mean row.

    One batch of so many copies of the row, each with an output of its own.
    """
    weight_VD = head_of(loaded.model).weight.detach()
    chosen = np.random.default_rng(seed).choice(len(weight_VD), size=count, replace=False)
    picked_BD = weight_VD[torch.from_numpy(chosen).to(weight_VD.device)].float()
    probes = [HiddenProbe(picked_BD), HiddenProbe(picked_BD - weight_VD.float().mean(dim=0))]
    raw, centred = KernelEngine(loaded, layers).kernels([row] * count, probes)
    return {"as they are": cosines(raw), "mean output removed": cosines(centred)}


def short_rows(path: Path, encoder: Encoder, *, count: int, max_tokens: int) -> list[Encoded]:
    """The first rows of a file that have at most so many tokens."""
    rows = (encoder.encode(row) for row in DataFile(path).rows() if isinstance(row, Row))
    kept = [row for row in rows if len(row) <= max_tokens][:count]
    if len(kept) < count:
        sys.exit(f"{path} has {len(kept)} rows of at most {max_tokens} tokens, not {count}: raise --max-tokens")
    return kept


def report(given: argparse.Namespace, domain_file: Path, pool_file: Path) -> None:
    """Everything, printed."""
    identity = resolve_model(given.model)
    loaded = load_model(identity, dtype="float32", device="auto")
    if given.adapter:
        adapter = resolve_adapter(given.adapter, adapters=given.folder / "store" / "adapters")
        layers = load_adapter(loaded, adapter, identity)
    else:
        layers = fresh_adapter(loaded.model, rank=16, target_modules="all-linear", seed=0)
    layers = only_layers(layers, given.layers)
    encoder = Encoder(loaded.tokenizer, max_length=given.max_tokens + 1)
    rows = [
        *short_rows(domain_file, encoder, count=given.domain, max_tokens=given.max_tokens),
        *short_rows(pool_file, encoder, count=given.pool, max_tokens=given.max_tokens),
    ]
    draws = {
        name: [LogitProbe(loaded.model, name, seed=0, number=k) for k in range(given.draws)]
        for name in ("rademacher", "centred")
    }
    trace, centred, total, found = trace_kernels(
        loaded, layers, rows, [probe for each in draws.values() for probe in each]
    )
    estimates = {"sum": [total]}
    for i, name in enumerate(draws):
        single = found[i * given.draws : (i + 1) * given.draws]
        estimates[f"{name} x 1"] = single
        groups = [single[k : k + GROUP] for k in range(0, len(single) - GROUP + 1, GROUP)]
        estimates[f"{name} x {GROUP}"] = [np.mean(group, axis=0) for group in groups]
    print(
        f"{given.task}: {given.domain} domain and {given.pool} pool rows of {min(map(len, rows))} to "
        f"{max(map(len, rows))} tokens, layers {given.layers}, adapter {given.adapter or 'fresh'}, completion positions"
    )
    share = np.trace(total) / len(head_of(loaded.model).weight) / np.trace(trace)
    print(f"share of the trace kernel's diagonal that is the mean output's, which softmax does not see: {share:.3f}")
    print_agreement("the exact trace kernel", trace, {**estimates, "exact centred": [centred]}, given)
    print_agreement("the exact centred trace kernel", centred, {**estimates, "exact trace": [trace]}, given)
    print_cosines(loaded, layers, rows[:: max(1, len(rows) // given.cosine_rows)][: given.cosine_rows], given)


def print_agreement(
    label: str, reference: Floats, estimates: dict[str, list[Floats]], given: argparse.Namespace
) -> None:
    """A table: mean over the draws (the lowest of them)."""
    domain, pool = np.arange(given.domain), np.arange(given.domain, given.domain + given.pool)
    wanted = forms(reference, pool)
    print(f"\nagainst {label}: Pearson of entries, Spearman of the pool rows' scores; mean over draws (lowest)")
    heads = [f"{what} {form}" for form in FORMS for what in ("Pearson", "Spearman")]
    print(f"{'kernel':15} {'draws':>5} " + " ".join(f"{head:>18}" for head in heads))
    for name, kernels in estimates.items():
        made = [forms(kernel, pool) for kernel in kernels]
        cells = []
        for form in FORMS:
            each: list[Agreement] = [agreement(one[form], wanted[form], domain=domain, pool=pool) for one in made]
            cells += [[a.pearson for a in each], [a.spearman for a in each]]
        print(f"{name:15} {len(kernels):5} " + " ".join(_mean_lowest(cell) for cell in cells))


def _mean_lowest(values: Sequence[float]) -> str:
    text = f"{np.mean(values):.3f}" + (f" ({min(values):.3f})" if len(values) > 1 else "")
    return f"{text:>18}"


def print_cosines(
    loaded: LoadedModel, layers: list[AdaptedLayer], rows: list[Encoded], given: argparse.Namespace
) -> None:
    """A table: rows' means and their range."""
    size = head_of(loaded.model).weight.shape[1]
    print(
        f"\ncosines between the gradients of {given.outputs} random outputs, {len(rows)} rows; hidden size {size}: "
        f"1/sqrt = {size**-0.5:.4f}, mean |cosine| of random directions {math.sqrt(2 / math.pi / size):.4f}"
    )
    found = [output_cosines(loaded, layers, row, given.outputs, seed=i) for i, row in enumerate(rows)]
    above = np.triu_indices(given.outputs, k=1)
    print(f"{'outputs':20} {'mean |cosine|':>13} {'of rows':>17} {'mean cosine':>11}")
    for name in found[0]:
        sizes = [float(np.abs(one[name][above]).mean()) for one in found]
        signed = float(np.mean([one[name][above].mean() for one in found]))
        print(f"{name:20} {np.mean(sizes):13.4f} {f'{min(sizes):.4f} to {max(sizes):.4f}':>17} {signed:11.4f}")
