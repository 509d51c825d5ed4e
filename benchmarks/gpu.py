#!/usr/bin/env python
"""Features on a GPU in one run: ours, a plain LoRA step, the bound, bergson where installed; a table in markdown.

    python benchmarks/gpu.py [cpu] [--minutes 8] [--shapes llama-3-8b,qwen2.5-0.5b] [--rounds 2]

Random weights of both shapes in bfloat16, rank 16, p = 8192; rows of 128 tokens, of 512, and of 26 to 250. Contenders
take turns, the fastest round counts; ours include the sketch and its way to the host, one batch behind. Kernels of a
batch by `launches.py`, with the sketch as one kernel and as the plain loop. Digests of two runs of the same rows. With
`cpu`: tiny shapes in float32. What did not fit into the minutes or into memory is named at the end. `benchmarks/gpu.sh`
runs this after the tests.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import contenders
import launches
import torch
from contenders import DIM, RANK, Run
from environment import PeakMemory, describe, peak_operations
from featurize import SHAPES, batched, make_rows, operations_per_token, random_model, tokens_of

from ntkcli.data.encoding import Encoded
from ntkcli.engine.gradients.row_gradients import Features
from ntkcli.engine.memory import out_of_memory
from ntkcli.engine.models.loading import LoadedModel
from ntkcli.engine.transfers import Outbox

TINY = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
"""What `cpu` runs in place of each shape."""
KINDS = ("512", "128", "mixed")
BATCH_TOKENS = {"llama-3-8b": 8192, "qwen2.5-0.5b": 32_768}
"""About 50 GB of activations each, by 10 hidden-sized and 4 MLP-sized tensors per layer and token."""
BATCHES = 4
"""Of each contender and round."""
BOUND, LORA, OURS = "bound: forward + activation backward", "plain LoRA step", "ntksel"
TARGETS = {"llama-3-8b": 0.50, "qwen2.5-0.5b": 0.35}
"""Shares of the data-sheet peak by 4·N·T that issue 20 asks for, rows of 512."""


@dataclass(slots=True)
class Cell:
    """What a contender gave on one kind of rows."""

    shape: str
    rows: str
    name: str
    speed: float = 0.0
    of_bound: float = 0.0
    of_peak: float = 0.0
    kernels: int = 0
    memory_gib: float = 0.0


@dataclass(slots=True)
class Report:
    """All cells, the digests, and what was left out and why."""

    cells: list[Cell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def delivered(features: Callable[[Sequence[Encoded]], Features], device: torch.device) -> Run:
    """Our features with their way to the host: each batch is read after the next one was sent."""
    outbox, sent = Outbox(device), []

    def run(rows: Sequence[Encoded]) -> None:
        found = features(rows)
        sent.append(outbox.send([found.sketch, found.norm]))
        if len(sent) > 1:
            sent.pop(0).take()

    return run


def contenders_of(loaded: LoadedModel) -> dict[str, tuple[Run, int]]:
    """name → what to run on each batch, and which share of the budget a batch has (1, or 4 for a quarter)."""
    found: dict[str, tuple[Run, int]] = {BOUND: (contenders.bound(loaded), 1)}
    settings: dict[str, dict[str, Any]] = {
        "sum, fresh": {"trained": False},
        "sum, trained": {},
        "centred, trained": {"probe": "centred"},
        "loss, trained": {"probe": "loss"},
        "sum, trained, sketch by the plain loop": {"plain_sketch": True},
    }
    for name, how in settings.items():
        found[f"{OURS} {name}"] = (delivered(contenders.ntksel(loaded, **how), loaded.device), 1)
    step = contenders.lora_step(loaded)
    found |= {f"{LORA}, a quarter of the tokens": (step, 4), LORA: (step, 1)}
    if find_spec("bergson"):
        found["bergson"] = (contenders.bergson(loaded), 1)
    return found


def seconds(run: Run, batches: Sequence[Sequence[Encoded]]) -> float:
    """Of all batches; the device is waited for at the end alone."""
    wait()
    began = time.perf_counter()
    for batch in batches:
        run(batch)
    wait()
    return time.perf_counter() - began


def wait() -> None:
    """Until the device has done everything."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(
    shape: str,
    kind: str,
    loaded: LoadedModel,
    made: dict[str, tuple[Run, int]],
    args: argparse.Namespace,
    report: Report,
) -> None:
    """All contenders on one kind of rows."""
    budget, runs = args.budget or BATCH_TOKENS[shape], {}
    rows = rows_of(kind, args.batches * budget, loaded)
    cells, best = {}, {}
    for name, (run, share) in made.items():
        batches, cell = batched(rows, budget // share), Cell(shape, kind, name)
        try:
            with PeakMemory() as memory:
                run(batches[0])
                wait()
            cell.memory_gib, cell.kernels = memory.gib, launches.count(lambda run=run, batch=batches[0]: run(batch))
            cells[name], best[name], runs[name] = cell, float("inf"), (run, batches)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            report.left_out.append(f"{shape}, rows of {kind}: {name}: does not fit in memory")
        torch.cuda.empty_cache()  # nothing on a machine without CUDA
    for _ in range(args.rounds):
        for name, (run, batches) in runs.items():
            if time.monotonic() < args.deadline or best[name] == float("inf"):
                best[name] = min(best[name], seconds(run, batches))
    operations, full = operations_per_token(loaded), peak_operations(args.dtype)
    for name, cell in cells.items():
        cell.speed = tokens_of(runs[name][1]) / best[name]
        cell.of_peak = cell.speed * operations / full if full else 0.0
    for cell in cells.values():
        cell.of_bound = cell.speed / cells[BOUND].speed if BOUND in cells else 0.0
    report.cells.extend(cells.values())


def rows_of(kind: str, tokens: int, loaded: LoadedModel) -> list[Encoded]:
    """About so many tokens in rows of one kind."""
    mixed = kind == "mixed"
    length = 138 if mixed else int(kind)  # the mean of 26 to 250
    vocabulary = loaded.model.config.vocab_size
    return make_rows(max(4, tokens // length), 0 if mixed else length, mixed=mixed, vocabulary=vocabulary)


def digests(shape: str, loaded: LoadedModel, args: argparse.Namespace, report: Report) -> None:
    """Two runs of the same rows: the same bytes or not, and how far apart."""
    budget = args.budget or BATCH_TOKENS[shape]
    rows, made = rows_of("mixed", budget, loaded), contenders.ntksel(loaded)
    found = []
    for _ in range(2):
        parts = [made(batch).sketch.cpu() for batch in batched(rows, budget)]
        found.append(torch.cat(parts))
    first, second = (hashlib.sha256(one.numpy().tobytes()).hexdigest()[:16] for one in found)
    apart = float((found[0] - found[1]).abs().max())
    report.notes.append(
        f"{shape}: digests of two runs {first} and {second}: "
        + ("the same bytes" if first == second else f"entries differ by {apart:.1e} at most")
    )


def table(cells: Sequence[Cell]) -> str:
    """In markdown."""
    lines = [
        "| shape | rows of | contender | tokens/s | of the bound | of peak | kernels per batch | GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        peak = f"{cell.of_peak:.1%}" if cell.of_peak else "-"
        lines.append(
            f"| {cell.shape} | {cell.rows} | {cell.name} | {cell.speed:,.0f} | {cell.of_bound:.2f} | {peak} "
            f"| {cell.kernels:,} | {cell.memory_gib:.2f} |"
        )
    return "\n".join(lines)


def verdicts(cells: Sequence[Cell]) -> list[str]:
    """The targets, one sentence each."""
    found = []
    for shape, wanted in TARGETS.items():
        here = [cell for cell in cells if cell.shape == shape and cell.rows == "512"]
        ours = [cell for cell in here if cell.name == f"{OURS} sum, trained"]
        steps = [cell.speed for cell in here if cell.name.startswith(LORA)]
        if ours and ours[0].of_peak:
            met = "met" if ours[0].of_peak >= wanted else "missed"
            found.append(f"{shape}: {ours[0].of_peak:.1%} of peak; target {wanted:.0%}: {met}")
        if ours and steps:
            found.append(f"{shape}: {ours[0].speed / max(steps):.2f} times a plain LoRA step at its best")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", nargs="?", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing after so many")
    parser.add_argument("--shapes", default="llama-3-8b,qwen2.5-0.5b")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget", type=int, default=0, help="tokens per batch; default: by the shape")
    args = parser.parse_args()
    tiny = args.where == "cpu"
    args.deadline, args.batches = time.monotonic() + 60 * args.minutes, BATCHES
    args.dtype = "float32" if tiny else "bfloat16"
    if tiny:
        args.budget, args.batches, args.rounds = args.budget or 512, 1, 1
    elif not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device. `benchmarks/gpu.sh cpu` runs the same with tiny shapes.")
    device, report = torch.device("cpu" if tiny else "cuda:0"), Report()
    for shape in args.shapes.split(","):
        if time.monotonic() > args.deadline:
            report.left_out.append(f"{shape}: no time left")
            continue
        sizes = SHAPES[shape] | (TINY if tiny else {})
        benchmark(shape, random_model(sizes, device, getattr(torch, args.dtype)), args, report)
        gc.collect()  # tapped models are cycles
        torch.cuda.empty_cache()
    if tiny:
        report.left_out.append("both shapes (a tiny Llama in their place), bfloat16, shares of a peak, the one kernel")
    if not find_spec("bergson"):
        report.left_out.append("bergson: not installed")
    show(args, report)


def benchmark(shape: str, loaded: LoadedModel, args: argparse.Namespace, report: Report) -> None:
    """One shape."""
    digests(shape, loaded, args, report)
    made = contenders_of(loaded)
    for kind in KINDS:
        if time.monotonic() > args.deadline:
            report.left_out.append(f"{shape}, rows of {kind}: no time left")
        else:
            measure(shape, kind, loaded, made, args, report)


def show(args: argparse.Namespace, report: Report) -> None:
    """Print the report, in markdown."""
    print(f"\n{describe()}\n")
    sizes = f"{args.budget or BATCH_TOKENS} tokens per batch, {args.batches} batches, best of {args.rounds} rounds"
    print(f"Random weights, {args.dtype}, rank {RANK}, p = {DIM}, {sizes}.\n")
    print(table(report.cells))
    for line in [*(verdicts(report.cells) if torch.cuda.is_available() else []), *report.notes]:
        print(f"\n{line}.")
    print("\nLeft out:", *(f"- {line}" for line in report.left_out or ["nothing"]), sep="\n")


if __name__ == "__main__":
    main()
