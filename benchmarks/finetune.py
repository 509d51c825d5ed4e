#!/usr/bin/env python
"""Speed of a training step in ONE run: ours against transformers' plain Trainer, same rows, batches, adapter and seed.

    python benchmarks/finetune.py [--model MODEL] [--steps 4] [--batch-size 8]

Once with rows of one length and once of random lengths (26 to 250 tokens, half of them supervised). Prints seconds a
step (the first, which warms up, left out), tokens/s, the ratio, and how far losses differ: both compute the same steps.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from environment import describe
from featurize import make_rows

from ntkcli.data.encoding import Encoded
from ntkcli.demo import demo_model_path
from ntkcli.engine.models.loading import LoadedModel, load_model
from ntkcli.engine.models.speed import operations_per_second
from ntkcli.engine.training.loss import collate
from ntkcli.engine.training.size import pick_batch_tokens
from ntkcli.engine.training.train import TrainingOptions, train_adapter
from ntkcli.engine.training.trainer import Step, TrainingRows
from ntkcli.identity import resolve_model
from ntkcli.progress import Silent

RANK, ALPHA, RATE, SEED = 16, 32, 2e-4, 0
Measured = tuple[list[float], list[float]]  # losses, and the moments at which steps ended


def ours(loaded: LoadedModel, rows: list[Encoded], *, batch_size: int) -> Measured:
    losses: list[float] = []
    ends: list[float] = []

    def on_step(step: Step) -> None:
        losses.append(step.loss)
        ends.append(time.perf_counter())

    options = TrainingOptions(
        learning_rate=RATE,
        batch_size=batch_size,
        rank=RANK,
        alpha=ALPHA,
        target_modules="all-linear",
        seed=SEED,
        checkpoint_steps=1 << 30,
        batch_tokens=pick_batch_tokens(loaded, rank=RANK, target_modules="all-linear"),
        epochs=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        data = TrainingRows(rows, [""] * len(rows))
        train_adapter(
            loaded, data, options=options, folder=Path(folder), on_step=on_step, progress=Silent(), resume_at_most=0
        )
    return losses, ends


def plain(loaded: LoadedModel, rows: list[Encoded], *, batch_size: int) -> Measured:
    """The Trainer as one would write it: rows padded to the longest of the batch, the model's own loss."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    losses: list[float] = []
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *given, **named):  # type: ignore[no-untyped-def]  # as the callback has it
            del given, named
            ends.append(time.perf_counter())

    class Plain(Trainer):
        def training_step(self, *given, **named):  # type: ignore[no-untyped-def]  # as Trainer has it
            loss = super().training_step(*given, **named)
            losses.append(float(loss))
            return loss

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=1,
            per_device_train_batch_size=batch_size,
            seed=SEED,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=loaded.device.type == "cpu",
            dataloader_pin_memory=loaded.device.type == "cuda",
            bf16=loaded.dtype == torch.bfloat16,
        )
        trainer = Plain(
            model=get_peft_model(loaded.model, config),
            args=arguments,
            train_dataset=rows,
            data_collator=lambda batch: collate(batch, 0),
            callbacks=[Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return losses, ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(demo_model_path()))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    identity = resolve_model(args.model)
    print(describe())
    print(f"{args.steps} steps of {args.batch_size} rows, rank {RANK} on all linear layers, {args.dtype}")
    for kind in ("one length", "random lengths"):
        found = {}
        for name, run in (("plain Trainer", plain), ("ntksel", ours)):
            loaded = load_model(identity, dtype=args.dtype, device=args.device)
            vocabulary = loaded.model.config.get_text_config().vocab_size
            rows = make_rows(args.steps * args.batch_size, 128, mixed=kind != "one length", vocabulary=vocabulary)
            losses, ends = run(loaded, rows, batch_size=args.batch_size)
            seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
            tokens = sum(map(len, rows)) / args.steps
            found[name] = (seconds, losses)
            print(f"{kind:15} {name:14} {seconds:7.2f} s a step   {tokens / seconds:7.0f} tokens/s")
        (base, expected), (mine, losses) = found["plain Trainer"], found["ntksel"]
        apart = float(np.abs(np.array(losses) - np.array(expected)).max())
        print(f"{kind:15} ntksel / plain Trainer: {base / mine:.2f} times the speed; losses differ by {apart:.1e}")
    parameters = sum(p.numel() for p in loaded.model.parameters() if not p.requires_grad)
    spent = mine * operations_per_second(args.device) / (tokens * parameters)
    print(f"operations a parameter and token, at the speed that estimates assume: {spent:.1f}")


if __name__ == "__main__":
    main()
