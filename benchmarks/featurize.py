#!/usr/bin/env python
"""Speed of NTK features in ONE run, on the same rows, model and dtype, against the bound and what others do.

    python benchmarks/featurize.py [--model MODEL] [--rows 64] [--tokens 128 | --mixed]

Prints tokens/s and ratios of: the frozen model's forward plus activation backward (the bound); ours, with a fresh and
with a trained adapter, sketch included; a plain LoRA training step (forward with loss, backward) at its best batch
size; and a one-row loop of autograd without any projection (the floor of LESS's way, which then projects).
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from environment import describe

from ntkcli.data.encoding import Encoded
from ntkcli.demo import demo_model_path
from ntkcli.engine.adapters import AdaptedLayer, fresh_adapter
from ntkcli.engine.batches import pad, plan_batches
from ntkcli.engine.gradients import GradientEngine
from ntkcli.engine.models import LoadedModel, decoder_of, load_model
from ntkcli.engine.probes import LogitProbe
from ntkcli.engine.projections import make_projection
from ntkcli.engine.training_loss import collate
from ntkcli.identity import resolve_model

RANK, DIM = 16, 8192
BUDGET = 2048


def make_rows(n: int, tokens: int, *, mixed: bool, vocabulary: int) -> list[Encoded]:
    draw = np.random.default_rng(0)
    lengths = np.sort(draw.integers(26, 251, n)) if mixed else np.full(n, tokens)
    return [
        Encoded(draw.integers(5, vocabulary, t).astype(np.int32), np.arange(t) >= t // 2, truncated=False)
        for t in lengths
    ]


def measure(run: Callable[[Sequence[Encoded]], None], batches: list[list[Encoded]], *, repeats: int) -> float:
    """Tokens a second, the best of the repeats; one batch first to warm up."""
    run(batches[0])
    tokens = sum(len(row) for batch in batches for row in batch)
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        for batch in batches:
            run(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = max(best, tokens / (time.perf_counter() - began))
    return best


def batched(rows: list[Encoded], budget: int) -> list[list[Encoded]]:
    return [[rows[i] for i in where] for where in plan_batches([len(row) for row in rows], budget)]


def bound(loaded: LoadedModel) -> Callable[[Sequence[Encoded]], None]:
    decoder, embed = decoder_of(loaded.model), loaded.model.get_input_embeddings()

    def run(rows: Sequence[Encoded]) -> None:
        batch = pad(rows, positions="completion", pad_id=0, device=loaded.device)
        x = embed(batch.ids).requires_grad_(True)
        hidden = decoder(inputs_embeds=x, attention_mask=batch.mask, use_cache=False).last_hidden_state
        torch.autograd.backward(hidden, batch.weight[..., None].to(hidden.dtype).expand_as(hidden))

    return run


def ours(loaded: LoadedModel, *, trained: bool) -> Callable[[Sequence[Encoded]], None]:
    layers = fresh_adapter(loaded.model, rank=RANK, target_modules="all-linear", seed=0)
    if trained:
        torch.manual_seed(0)
        layers = [
            AdaptedLayer(x.name, x.module, x.a, 0.01 * torch.randn(x.weight.shape[0], RANK, device=x.a.device), 1.0)
            for x in layers
        ]
    projection = make_projection("sjlt", dim=DIM, seed=0, device=loaded.device)
    engine = GradientEngine(loaded, layers, projection=projection, probes=[LogitProbe(loaded.model, "sum")])
    return lambda rows: engine.features(rows, positions="completion") and None


def lora_step(loaded: LoadedModel) -> tuple[Callable[[Sequence[Encoded]], None], Callable[[Sequence[Encoded]], None]]:
    """A plain training step on a batch, and the one-row loop of per-example gradients, with peft's adapter."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(loaded.model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))

    def step(rows: Sequence[Encoded]) -> None:
        model(**{name: x.to(loaded.device) for name, x in collate(rows, 0).items()}).loss.backward()
        model.zero_grad()

    def loop(rows: Sequence[Encoded]) -> None:
        for row in rows:
            step([row])

    return step, loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(demo_model_path()))
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--mixed", action="store_true", help="rows of 26 to 250 tokens")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    identity = resolve_model(args.model)

    def fresh() -> LoadedModel:
        return load_model(identity, dtype=args.dtype, device=args.device)

    loaded = fresh()
    vocabulary = loaded.model.config.get_text_config().vocab_size
    rows = make_rows(args.rows, args.tokens, mixed=args.mixed, vocabulary=vocabulary)
    batches = batched(rows, BUDGET)
    found = {"bound: forward + activation backward": measure(bound(loaded), batches, repeats=args.repeats)}
    found["ntksel, fresh adapter"] = measure(ours(loaded, trained=False), batches, repeats=args.repeats)
    found["ntksel, trained adapter"] = measure(ours(fresh(), trained=True), batches, repeats=args.repeats)
    step, loop = lora_step(fresh())
    sizes = (512, 1024, 2048)
    found["plain LoRA step, best batch"] = max(measure(step, batched(rows, s), repeats=1) for s in sizes)
    found["one-row loop, no projection"] = measure(loop, batches, repeats=1)
    print(describe())
    shape = f"{args.rows} rows, {sum(map(len, rows))} tokens, batches of {BUDGET} tokens"
    print(f"{shape}, rank {RANK}, p = {DIM}, {args.dtype}")
    best = found["bound: forward + activation backward"]
    for name, speed in found.items():
        print(f"{name:40} {speed:8.0f} tokens/s   {speed / best:5.2f} of the bound")
    step_speed = found["plain LoRA step, best batch"]
    for kind in ("fresh", "trained"):
        print(f"ntksel ({kind}) / plain LoRA step: {found[f'ntksel, {kind} adapter'] / step_speed:.2f}")
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
