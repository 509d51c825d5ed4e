"""Fine-tune a LoRA adapter with peft on transformers' Trainer, resumable from its last whole checkpoint.

The Trainer does the loop, the optimiser, the schedule and the checkpoints. Ours are the steps, planned before training
begins (`ntkcli.engine.training.step_plan`), and the loss, computed without logits where nothing is supervised and
with little padding (`ntkcli.engine.training.loss`).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import store
from ntkcli.engine.models.adapters import linear_layers
from ntkcli.engine.models.attach import attach_adapter
from ntkcli.engine.models.beside import round_once
from ntkcli.engine.models.devices import train_on
from ntkcli.engine.models.loading import LoadedModel
from ntkcli.engine.training import checkpoints
from ntkcli.engine.training.checkpoints import RunState, newest_checkpoint
from ntkcli.engine.training.moments import write_moments
from ntkcli.engine.training.reporting import Reporting
from ntkcli.engine.training.step_plan import plan_stages
from ntkcli.engine.training.together import same_start
from ntkcli.engine.training.trainer import Step, TrainingRows, checkpoint_callback, make_trainer
from ntkcli.engine.training.weight_average import WeightAverage
from ntkcli.errors import DivergedError, NtkselError, UsageError
from ntkcli.group import ALONE, Group
from ntkcli.identity import AdapterIdentity
from ntkcli.library_settings import without_library_settings
from ntkcli.progress import Progress
from ntkcli.units import human_bytes
from store import atomic

OPTIMIZER = "optimizer.safetensors"
"""Beside the adapter, where the optimiser's moments are kept."""
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
"""Our names of the learning rate's schedules after the warm-up → the Trainer's."""
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How to train. `alpha` is LoRA's numerator (s = alpha/rank); `checkpoint_steps` the steps between checkpoints.

    One of `epochs`, `max_tokens` and `max_steps` is given. `warmup` is a share of the steps. `batch_tokens`: padded
    tokens computed at a time, a speed setting, as is `gradient_checkpointing`. With rows held out the adapter of the
    lowest held-out loss is kept, and `patience` evaluations without a lower one stop the training. `per_row`: the loss
    is a mean over rows instead of supervised tokens. `average_weights`: the adapter is the mean of the weights after
    each of the last steps, this share of them (0: the last step's weights). `init`: the adapter to go on from, whose
    rank, alpha and modules hold. `keep_optimizer`: leave the optimiser's moments beside the adapter.
    `keep_checkpoints`: keep the adapter of every checkpoint. `reporting`: where the steps are reported to; changes no
    value.
    """

    learning_rate: float
    batch_size: int
    rank: int
    alpha: float
    target_modules: str
    seed: int
    checkpoint_steps: int
    batch_tokens: int
    epochs: int | None = None
    max_tokens: int | None = None
    max_steps: int | None = None
    schedule: str = "cosine"
    warmup: float = 0.03
    gradient_checkpointing: bool = False
    patience: int | None = None
    init: AdapterIdentity | None = None
    keep_optimizer: bool = False
    per_row: bool = False
    average_weights: float = 0.0
    keep_checkpoints: bool = False
    reporting: Reporting = field(default_factory=Reporting)


def train_adapter(
    loaded: LoadedModel,
    data: TrainingRows,
    *,
    options: TrainingOptions,
    folder: Path,
    on_step: Callable[[Step], None],
    progress: Progress,
    resume_at_most: int,
    group: Group = ALONE,
) -> int:
    """Train on the rows and leave `adapter_model.safetensors` and `adapter_config.json` in `folder`; returns the steps
    taken.

    Resumes from the newest whole checkpoint under `folder`/checkpoints of `resume_at_most` steps or fewer. `on_step` is
    called after every optimiser step, before a checkpoint that contains it. On one machine the weights of an
    interrupted and resumed training equal those of an unbroken one bit for bit. Of a `group` the first process alone
    decides where to resume, and writes; any number of processes resumes what another began.

    Raises:
        DivergedError: the loss is not finite; names the step and its rows.
    """
    steps = _plan_steps(data, options)
    resume = group.first_says(lambda: newest_checkpoint(folder / "checkpoints", at_most=resume_at_most))
    state = (checkpoints.read_state(resume) if resume else None) or RunState(options.batch_tokens)
    with without_library_settings(), _quiet(), _deterministic(loaded.device):
        model = _with_adapter(loaded, options)
        same_start(model, group)
        arguments = _arguments(loaded, options, folder / "checkpoints", n_steps=len(steps), saves=group.first)
        pad_id = loaded.tokenizer.pad_token_id or 0
        trainer = make_trainer(
            model, arguments, data, steps, pad_id=pad_id, state=state, per_row=options.per_row, group=group
        )
        options.reporting.prepare(trainer)
        share = options.average_weights
        average = WeightAverage.of_last(share, model, n_steps=len(steps)) if share else None
        keep_step = partial(_keep_step, model, folder) if options.keep_checkpoints and group.first else None
        keep_best = _keep_best(model, trainer, folder, group) if data.held_out else None
        callback = checkpoint_callback(
            trainer, on_step=on_step, progress=progress, keep_best=keep_best, patience=options.patience,
            average=average, keep_step=keep_step,
        )  # fmt: skip
        trainer.add_callback(callback)
        if resume is None and group.first:
            _refuse_without_room(model, folder, n_copies=_copies(data, options, n_steps=len(steps)))
        elif resume is not None:
            progress.note(f"resuming from step {checkpoints.steps_of(resume)}")
            if average is not None:
                average.load(resume)
        if not state.stopped:
            with _full_disk_as_oserror(folder):
                trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if average is not None:
            average.apply()
        if group.first:
            _publish(trainer, folder, keep_optimizer=options.keep_optimizer)
        taken: int = checkpoints.steps_of(resume) if resume and state.stopped else trainer.state.global_step
        return taken


def _plan_steps(data: TrainingRows, options: TrainingOptions) -> list[NDArray[np.int64]]:
    return plan_stages(
        data.lengths(),
        data.stages,
        batch_size=options.batch_size,
        seed=options.seed,
        epochs=options.epochs,
        max_tokens=options.max_tokens,
        max_steps=options.max_steps,
    )


def _keep_best(model: Any, trainer: Any, folder: Path, group: Group) -> Callable[[int], None]:
    """What keeps the adapter as the best one; of a group the first process does."""

    def save(work: Path) -> None:
        _save_adapter(model, work)
        _save_moments(trainer, work)

    return lambda steps: checkpoints.keep_best(folder / "checkpoints", steps, save) if group.first else None


def _arguments(loaded: LoadedModel, options: TrainingOptions, checkpoints: Path, *, n_steps: int, saves: bool) -> Any:
    from transformers import TrainingArguments

    on_cuda = loaded.device.type == "cuda"
    if loaded.dtype == torch.float16 and not on_cuda:
        raise UsageError(
            "--dtype float16: training in it needs CUDA, which has the scaled gradients that keep it from underflow.",
            "Give --dtype bfloat16 or float32.",
        )
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=n_steps,
        learning_rate=options.learning_rate,
        lr_scheduler_type=SCHEDULES[options.schedule],
        warmup_steps=math.ceil(options.warmup * n_steps),
        per_device_train_batch_size=options.batch_size,
        seed=options.seed,
        save_strategy="steps" if saves else "no",
        save_steps=options.checkpoint_steps,
        save_total_limit=2,  # the last whole one stands while the next is written
        bf16=loaded.dtype == torch.bfloat16,
        fp16=loaded.dtype == torch.float16,
        gradient_checkpointing=options.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if options.gradient_checkpointing else None,
        **options.reporting.arguments,
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not on_cuda,
        dataloader_pin_memory=on_cuda,
    )
    train_on(arguments, loaded.device)
    return arguments


def _with_adapter(loaded: LoadedModel, options: TrainingOptions) -> Any:
    """The model with a new adapter, or the one to go on from, its weights float32 whatever the base's are."""
    from peft import LoraConfig, get_peft_model

    if options.init is not None:
        return attach_adapter(loaded.model, options.init, trainable=True)
    linear_layers(loaded.model, options.target_modules)  # refuses names that it lacks, with those it has
    names = [name.strip() for name in options.target_modules.split(",")]
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules="all-linear" if options.target_modules == "all-linear" else names,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(options.seed)  # peft draws A
    model = get_peft_model(loaded.model, config)
    round_once(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """No log of transformers', no warnings about its and peft's next versions."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
        yield


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Only CUDA's reproducible kernels, where it has them; the CPU's are."""
    if device.type != "cuda":
        yield
        return
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what cuBLAS needs for it; another size may be other kernels
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def _full_disk_as_oserror(folder: Path) -> Iterator[None]:
    """torch and safetensors tell of a failed write in errors of their own; to the user it is one of the disk."""
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        text = str(error)
        told = ("PytorchStreamWriter", "unexpected pos", "iostream error", "os error 28", "I/O error")
        if any(words in text for words in told):
            raise OSError(
                None, f"The disk could not take a checkpoint ({text.splitlines()[0][:120]})", str(folder)
            ) from error
        raise


def _copies(data: TrainingRows, options: TrainingOptions, *, n_steps: int) -> int:
    """How many times the adapter's size the training takes on disk at most."""
    return checkpoints.copies_on_disk(
        keep_optimizer=options.keep_optimizer,
        held_out=bool(data.held_out),
        averaged=bool(options.average_weights),
        kept=2 + n_steps // options.checkpoint_steps if options.keep_checkpoints else 0,
    )


def _refuse_without_room(model: Any, folder: Path, *, n_copies: int) -> None:
    """NtkselError if the disk can't take so many copies of the adapter."""
    needed = 4 * n_copies * sum(p.numel() for p in model.parameters() if p.requires_grad)
    free = store.free_bytes(folder)
    if needed > free:
        raise NtkselError(
            f"runs/{folder.name} needs {human_bytes(needed)} and the disk of {folder} has {human_bytes(free)} left.",
            "Make room (`ntksel rm` removes what is in a store), or give a smaller --rank.",
        )


def _save_adapter(model: Any, work: Path) -> None:
    """The adapter's two files in the folder `work`; the list of modules sorted, so that bytes repeat."""
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad):
        raise DivergedError(
            "The adapter's weights are not finite: training has diverged.",
            "Lower --lr, or give --dtype float32; then give the run another --name.",
        )
    model.save_pretrained(work)
    path = work / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    path.write_bytes(json.dumps(config, indent=2, sort_keys=True).encode())


def _keep_step(model: Any, folder: Path, steps: int) -> None:
    """Keep the adapter as it is after so many steps."""
    checkpoints.keep_step(folder, steps, partial(_save_adapter, model))


def _save_moments(trainer: Any, work: Path) -> None:
    steps = trainer.state.global_step
    optimizer = trainer.optimizer.optimizer  # within accelerate's wrapper
    rate = trainer.run_state.rate_sum / steps
    write_moments(work / OPTIMIZER, trainer.model, optimizer, step=steps, mean_learning_rate=rate)


def _publish(trainer: Any, folder: Path, *, keep_optimizer: bool) -> None:
    """Move the adapter's files into place: the best one's if rows were held out, else the last one's."""
    best = trainer.run_state.best_step
    work = folder / "saving"
    shutil.rmtree(work, ignore_errors=True)
    if best is None:
        _save_adapter(trainer.model, work)
        if keep_optimizer:
            _save_moments(trainer, work)
    source = work if best is None else folder / "checkpoints" / f"best-{best}"
    for name in [*_ADAPTER_FILES, OPTIMIZER] if keep_optimizer else _ADAPTER_FILES:
        atomic.write_bytes(folder / name, (source / name).read_bytes())
    shutil.rmtree(work, ignore_errors=True)
