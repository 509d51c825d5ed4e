#!/usr/bin/env python
"""Speed of features in ONE run, on the same rows, weights and dtype, against the bound and what others do.

    python benchmarks/featurize.py [--model MODEL | --shape llama-3-8b] [--rows 16] [--tokens 128 | --mixed] [--dense]

Contenders take turns for `--repeats` rounds; of each batch the fastest time counts, so that a busy machine hits all
alike. Prints tokens/s and ratios of: the frozen model's forward plus activation backward (the bound); `ntksel` with
each probe and projection; a plain LoRA training step (forward with loss, backward) at its best batch size; a one-row
loop of autograd; bergson when it is installed. `--dense` adds the dense projection, ours and the one-row loop's (LESS).
On a GPU: the share of its peak by 4·N·T operations (N parameters below the head).
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import contenders
import numpy as np
import torch
from contenders import DIM, RANK, Run
from environment import PeakMemory, describe, peak_operations
from numpy.typing import NDArray

from ntkcli.data.encoding import Encoded
from ntkcli.demo import demo_model_path
from ntkcli.engine.batches import plan_batches
from ntkcli.engine.models.devices import DTYPES, pick_device
from ntkcli.engine.models.loading import LoadedModel, decoder_of, load_model
from ntkcli.identity import resolve_model

SHAPES = {
    "llama-3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "qwen2.5-0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
}
"""Sizes alone: a Llama with random weights. Speed does not depend on what the weights are."""
BOUND, FRESH, TRAINED = "bound: forward + activation backward", "ntksel sum, fresh adapter", "ntksel sum"
ONCE = ("dense projection", "dense projection (LESS)")
"""So slow that one round tells, the one that shows the memory."""


def make_rows(n: int, tokens: int, *, mixed: bool, vocabulary: int) -> list[Encoded]:
    """Rows of random tokens, the second half of each supervised."""
    draw = np.random.default_rng(0)
    lengths = np.sort(draw.integers(26, 251, n)) if mixed else np.full(n, tokens)
    return [
        Encoded(draw.integers(5, vocabulary, t).astype(np.int32), np.arange(t) >= t // 2, truncated=False)
        for t in lengths
    ]


def batched(rows: list[Encoded], budget: int) -> list[list[Encoded]]:
    """The rows in batches of like length under a token budget."""
    return [[rows[i] for i in where] for where in plan_batches([len(row) for row in rows], budget)]


def load(args: argparse.Namespace) -> LoadedModel:
    """The model, or random weights of a shape."""
    if not args.shape:
        return load_model(resolve_model(args.model or str(demo_model_path())), dtype=args.dtype, device=args.device)
    device, dtype = pick_device(args.device), DTYPES[args.dtype]
    return random_model(SHAPES[args.shape], device, dtype)


def random_model(shape: dict[str, Any], device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """A Llama of this shape with random weights, made where it is to be."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        model = LlamaForCausalLM(LlamaConfig(**shape)).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
    return LoadedModel(model, SimpleNamespace(pad_token_id=0), device, dtype)


def operations_per_token(loaded: LoadedModel) -> int:
    """4·N: forward and activation backward of the N parameters below the head, but the embedding table."""
    embed = loaded.model.get_input_embeddings().weight.numel()
    return 4 * (sum(p.numel() for p in decoder_of(loaded.model).parameters()) - embed)


def make(
    loaded: LoadedModel, rows: list[Encoded], args: argparse.Namespace
) -> dict[str, tuple[Run, list[list[Encoded]]]]:
    """name → what to run on each batch, and the batches."""
    batches = batched(rows, args.batch_tokens)
    found = {BOUND: (contenders.bound(loaded), batches)}
    found[FRESH] = (contenders.ntksel(loaded, trained=False), batches)
    found[TRAINED] = (contenders.ntksel(loaded), batches)
    for probe in ("rademacher", "centred", "loss"):
        found[f"ntksel {probe}"] = (contenders.ntksel(loaded, probe=probe), batches)
    found["ntksel centred, 4 probes"] = (contenders.ntksel(loaded, probe="centred", probes=4), batches)
    found["ntksel sum, exact gradients of q and v"] = (contenders.ntksel(loaded, projection="none"), batches)
    found["ntksel embed"] = (contenders.embedding(loaded), batches)
    step = contenders.lora_step(loaded)
    for size in sorted({args.batch_tokens // 4, args.batch_tokens // 2, args.batch_tokens}):
        found[f"plain LoRA step, batches of {size} tokens"] = (step, batched(rows, size))
    found["one-row loop, no projection"] = (contenders.one_row_loop(loaded, dense=False), batches)
    if find_spec("bergson"):
        run = contenders.bergson(loaded)
        for size in sorted({args.batch_tokens // 4, args.batch_tokens}):
            found[f"bergson, batches of {size} tokens"] = (run, batched(rows, size))
    if args.dense:
        found["ntksel sum, dense projection"] = (contenders.ntksel(loaded, projection="rademacher"), batches[:1])
        found["one-row loop, dense projection (LESS)"] = (
            contenders.one_row_loop(loaded, dense=True),
            [batches[-1][:1]],
        )
    return {name: both for name, both in found.items() if re.search(args.only, name) or name == BOUND}


def seconds(run: Run, batches: Sequence[Sequence[Encoded]]) -> NDArray[np.float64]:
    """Of each batch."""
    ends = [time.perf_counter()]
    for batch in batches:
        run(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
    return np.diff(ends)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="default: the demo's")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="", help="random weights of this shape")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--mixed", action="store_true", help="rows of 26 to 250 tokens")
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--only", default="", help="contenders whose name matches this expression, and the bound")
    args = parser.parse_args()
    loaded = load(args)
    vocabulary = loaded.model.config.get_text_config().vocab_size
    rows = make_rows(args.rows, args.tokens, mixed=args.mixed, vocabulary=vocabulary)
    runs = make(loaded, rows, args)
    best: dict[str, NDArray[np.float64]] = {}
    peak: dict[str, float] = {}
    for name, (run, batches) in runs.items():  # memory apart: giving it back and taking it costs time
        once = name.endswith(ONCE)
        with PeakMemory() as memory:
            taken = seconds(run, batches if once else batches[:1])
        peak[name] = memory.gib
        best[name] = taken if once else np.full(len(batches), np.inf)
    for _ in range(args.repeats):
        for name, (run, batches) in runs.items():
            if not name.endswith(ONCE):
                best[name] = np.minimum(best[name], seconds(run, batches))
    report(args, loaded, rows, {name: (tokens_of(runs[name][1]) / best[name].sum(), peak[name]) for name in runs})


def tokens_of(batches: Sequence[Sequence[Encoded]]) -> int:
    """Real tokens, without padding."""
    return sum(len(row) for batch in batches for row in batch)


def report(
    args: argparse.Namespace, loaded: LoadedModel, rows: list[Encoded], found: dict[str, tuple[float, float]]
) -> None:
    """Print the table and the ratios."""
    print(describe())
    shape = args.shape or args.model or "SmolLM2-135M-Instruct"
    print(f"{shape}: {len(rows)} rows, {tokens_of([rows])} tokens, batches of {args.batch_tokens} tokens, ", end="")
    print(f"rank {RANK}, p = {DIM}, {args.dtype}, {args.repeats} rounds; adapters are trained ones unless said")
    operations = operations_per_token(loaded)
    full = peak_operations(args.dtype)
    limit = found[BOUND][0]
    print(f"{'':42} tokens/s  of the bound  working memory{'  of peak' if full else ''}")
    for name, (speed, memory) in found.items():
        share = f"{speed * operations / full:9.1%}" if full else ""
        print(f"{name:42} {speed:8.1f} {speed / limit:13.2f} {memory:11.2f} GiB{share}")
    for other in ("plain LoRA step", "bergson"):
        speeds = [speed for name, (speed, _) in found.items() if name.startswith(other)]
        for name in (FRESH, TRAINED):
            if speeds and name in found:
                print(f"{name} / {other} at its best: {found[name][0] / max(speeds):.2f}")


if __name__ == "__main__":
    main()
