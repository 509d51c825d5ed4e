"""Fine-tune a LoRA adapter with peft on transformers' Trainer, resumable from its last whole checkpoint.

The Trainer does the loop, the optimiser, the schedule and the checkpoints. Ours is the loss, which is the Trainer's own
(mean cross-entropy over the supervised tokens of a step), computed without logits where nothing is supervised and with
little padding: a step's rows run in groups of like length.

Legend: B rows, T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.models import LoadedModel, decoder_of, head_logits
from ntkcli.errors import NtkselError
from ntkcli.progress import Progress
from ntkcli.report import human_bytes
from store import atomic

IGNORED = -100
"""The label of a token that is not supervised, as in PyTorch and transformers."""
SHORTEST_SHARE = 0.75
"""Of the longest row of a group, how short a row in it may be: at most a quarter of what is computed is padding."""
_BYTES_A_WEIGHT = 4 * (3 * 3 + 2)
"""Of the adapter, on disk, float32: three checkpoints with Adam's two moments, while one is written; itself, twice."""
_FAILED_WRITES = ("inline_container", "PytorchStreamWriter", "iostream error", "No space left", "os error 28")
"""What torch and safetensors say, who raise no OSError, when the disk is full."""
_WHOLE = "ntksel-checkpoint-whole"
"""The file that is written into a checkpoint last, after all of it is on disk."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How to train. `alpha` is LoRA's numerator (s = alpha/rank); `checkpoint_steps` the steps between checkpoints."""

    epochs: int
    learning_rate: float
    batch_size: int
    rank: int
    alpha: float
    target_modules: str
    seed: int
    checkpoint_steps: int


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step, numbered from 0: its mean loss, its learning rate, the tokens in its rows."""

    number: int
    loss: float
    learning_rate: float
    tokens: int


def count_steps(n_rows: int, options: TrainingOptions) -> int:
    """Optimiser steps of the whole training."""
    return options.epochs * math.ceil(n_rows / options.batch_size)


def train_adapter(
    loaded: LoadedModel,
    rows: Sequence[Encoded],
    *,
    options: TrainingOptions,
    folder: Path,
    on_step: Callable[[Step], None],
    progress: Progress,
) -> None:
    """Train on the rows and leave `adapter_model.safetensors` and `adapter_config.json` in `folder`.

    Resumes from the newest whole checkpoint under `folder`/checkpoints and removes half-written ones. `on_step` is
    called after every optimiser step, before a checkpoint that contains it. On one machine the weights of an
    interrupted and resumed training equal those of an unbroken one bit for bit.

    Raises:
        NtkselError: the loss is not finite; names the step.
    """
    from transformers import PrinterCallback, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")  # of their next versions
    model = _with_new_adapter(loaded, options)
    _refuse_without_room(model, folder)
    checkpoints = folder / "checkpoints"
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(0.03 * count_steps(len(rows), options)),  # LESS's and the paper's usual 3%
        per_device_train_batch_size=options.batch_size,
        seed=options.seed,
        save_steps=options.checkpoint_steps,
        save_total_limit=2,  # the last whole one stands while the next is written
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=loaded.device.type == "cpu",
        dataloader_pin_memory=loaded.device.type == "cuda",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # never nn.DataParallel, which would change the batch size
    trainer = _make_trainer(model, arguments, rows, pad_id=loaded.tokenizer.pad_token_id or 0)
    trainer.remove_callback(PrinterCallback)  # prints to stdout
    trainer.add_callback(_watcher(trainer, on_step, progress))
    resume = newest_checkpoint(checkpoints)
    if resume is not None:
        progress.note(f"resuming from step {resume.name.rpartition('-')[2]}")
    with _full_disk_told(folder):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        _publish_adapter(model, folder)


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint; half-written ones (a kill) are removed."""
    whole = []
    for path in checkpoints.glob("checkpoint-*"):
        if (path / _WHOLE).is_file():
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _refuse_without_room(model: Any, folder: Path) -> None:
    """NtkselError, before the first step, if the disk can't hold the run's checkpoints and its adapter."""
    weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    needed, free = weights * _BYTES_A_WEIGHT, atomic.free_bytes(folder)
    if needed > free:
        raise NtkselError(
            f"Training {folder.name} needs {human_bytes(needed)} for checkpoints and the adapter, and the disk of "
            f"{folder} has {human_bytes(free)} left.",
            "Make room (`ntksel rm` removes what is in a store), or give a smaller --rank.",
        )


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """A full disk as the OSError it is, whoever wrote."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and any(words in str(error) for words in _FAILED_WRITES):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def _with_new_adapter(loaded: LoadedModel, options: TrainingOptions) -> Any:
    from peft import LoraConfig, get_peft_model

    names = [name.strip() for name in options.target_modules.split(",")]
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules="all-linear" if options.target_modules == "all-linear" else names,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(options.seed)  # peft draws A
    return get_peft_model(loaded.model, config)


def _make_trainer(model: Any, arguments: Any, rows: Sequence[Encoded], *, pad_id: int) -> Any:
    from transformers import Trainer

    core = model.get_base_model()
    decoder = decoder_of(core)

    class CompletionTrainer(Trainer):  # type: ignore[misc]
        """Trainer with the loss of this module; remembers loss, rate and tokens of the step under way."""

        step_loss, step_tokens, step_rate = 0.0, 0, 0.0

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Tensor],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Tensor:
            del model, return_outputs
            mask, labels = inputs["attention_mask"], inputs["labels"]
            total = torch.zeros((), device=labels.device)
            for group, length in like_lengths(mask.sum(dim=1)):
                ids = inputs["input_ids"][group, :length]
                output = decoder(input_ids=ids, attention_mask=mask[group, :length], use_cache=False)
                total = total + completion_loss(core, output.last_hidden_state, labels[group, :length])
            count = (labels[:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
            loss = total / torch.as_tensor(count, device=total.device).clamp(min=1)
            self.step_loss += float(loss.detach())
            self.step_tokens += int(inputs["attention_mask"].sum())
            self.step_rate = float(self.optimizer.param_groups[0]["lr"])
            return loss

    return CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=list(rows),
        data_collator=lambda batch: collate(batch, pad_id),
    )


def like_lengths(lengths_B: Tensor) -> list[tuple[Tensor, int]]:
    """The rows of a step in groups of like length, each with its longest: computed apart, they need little padding.

    A group ends where a row is shorter than `SHORTEST_SHARE` of its longest. The loss of the step is the same sum.
    """
    order = torch.argsort(lengths_B, descending=True, stable=True)
    sorted_lengths = lengths_B[order].tolist()
    groups: list[tuple[Tensor, int]] = []
    start = 0
    for i in range(1, len(order) + 1):
        if i == len(order) or sorted_lengths[i] < SHORTEST_SHARE * sorted_lengths[start]:
            groups.append((order[start:i], int(sorted_lengths[start])))
            start = i
    return groups


def completion_loss(model: Any, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
    """Cross-entropy summed over the supervised tokens; the head is applied to their predictors alone."""
    wanted_BT = labels_BT[:, 1:] != IGNORED
    logits_NV = head_logits(model, hidden_BTD[:, :-1][wanted_BT])
    return torch.nn.functional.cross_entropy(logits_NV, labels_BT[:, 1:][wanted_BT], reduction="sum")


def collate(rows: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask`, `labels` (B, T) int64, padded on the right."""
    longest = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    labels = np.full((len(rows), longest), IGNORED, dtype=np.int64)
    for i, row in enumerate(rows):
        length = len(row.ids)
        ids[i, :length] = row.ids
        mask[i, :length] = 1
        labels[i, :length][row.supervised] = row.ids[row.supervised]
    return {name: torch.from_numpy(x) for name, x in (("input_ids", ids), ("attention_mask", mask), ("labels", labels))}


def _watcher(trainer: Any, on_step: Callable[[Step], None], progress: Progress) -> Any:
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc]
        """Reports each step; marks each checkpoint whole once it is on disk."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, control
            step = Step(state.global_step - 1, trainer.step_loss, trainer.step_rate, trainer.step_tokens)
            trainer.step_loss, trainer.step_tokens = 0.0, 0
            if not math.isfinite(step.loss):
                raise NtkselError(
                    f"The loss of step {step.number} is {step.loss}: training has diverged.",
                    "Lower --lr, or give --dtype float32; then give the run another --name.",
                )
            on_step(step)
            progress.advance(1, tokens=step.tokens, note=f"loss {step.loss:.3f}")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del control
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            atomic.fsync_tree(folder)
            atomic.write_bytes(folder / _WHOLE, b"")

    return Watcher()


def _publish_adapter(model: Any, folder: Path) -> None:
    """Save the adapter and move its two files into place; its list of modules sorted, so that bytes repeat."""
    work = folder / "saving"
    shutil.rmtree(work, ignore_errors=True)
    model.save_pretrained(work)
    config = json.loads((work / "adapter_config.json").read_text(encoding="utf-8"))
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    atomic.write_bytes(folder / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True).encode())
    atomic.write_bytes(folder / "adapter_model.safetensors", (work / "adapter_model.safetensors").read_bytes())
    shutil.rmtree(work)
