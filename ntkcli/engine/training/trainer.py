"""transformers' Trainer with the loss of `ntkcli.engine.training.loss`, planned steps and a callback."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PrinterCallback, Trainer

from ntkcli.data.encoding import Encoded
from ntkcli.engine.memory import DoesNotFitError, Footprint
from ntkcli.engine.models.footprint import training_footprint
from ntkcli.engine.training import checkpoints
from ntkcli.engine.training.checkpoints import RunState
from ntkcli.engine.training.loss import StepLoss, collate, collate_packs, not_finite
from ntkcli.engine.training.mode import train_without_chance
from ntkcli.engine.training.together import add_up_step
from ntkcli.engine.training.weight_average import WeightAverage
from ntkcli.errors import UsageError
from ntkcli.group import ALONE, Group
from ntkcli.progress import Progress

TOO_LONG = "Give --gradient-checkpointing, a shorter --max-length or --dtype bfloat16."
"""What helps where a row does not fit in memory."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step, numbered from 0: its mean loss, its learning rate, the tokens in its rows.

    `held_out_loss` after it; NaN where it was not evaluated.
    """

    number: int
    loss: float
    learning_rate: float
    tokens: int
    held_out_loss: float = math.nan


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Rows to train on (repeats allowed) and rows held out to judge by, with a name of each for messages.

    `packs`: which rows share a sequence, empty where none do. `stages`: how many of the rows, or packs, belong to each
    stage, in order; empty for one stage.
    """

    rows: Sequence[Encoded]
    names: Sequence[str]
    held_out: Sequence[Encoded] = ()
    held_out_names: Sequence[str] = ()
    stages: Sequence[int] = ()
    packs: Sequence[Sequence[int]] = ()

    def parts(self, unit: int) -> Sequence[int]:
        """The rows of what a step is made of: of a pack, or the row itself."""
        return self.packs[unit] if self.packs else [unit]

    def lengths(self) -> list[int]:
        """The tokens of each pack, or row."""
        return [sum(len(self.rows[i]) for i in self.parts(unit)) for unit in range(len(self.packs or self.rows))]

    def batch(self, units: Sequence[int], pad_id: int) -> dict[str, Tensor]:
        """The rows or packs of a step, collated."""
        if self.packs:
            return collate_packs([[self.rows[i] for i in self.packs[unit]] for unit in units], pad_id)
        return collate([self.rows[i] for i in units], pad_id)

    def name(self, unit: int) -> str:
        """How a message names a row, or a pack."""
        first, *others = [self.names[i] for i in self.parts(unit)]
        return f"{first} and {len(others)} rows packed with it" if others else first


class CompletionTrainer(Trainer):  # type: ignore[misc]  # untyped base
    """Trainer with our steps and loss; remembers loss, rate and tokens of the current step in `now`."""

    now = Step(0, 0.0, 0.0, 0)

    def __init__(
        self, model: Any, arguments: Any, data: TrainingRows, steps: Sequence[NDArray[np.int64]], *, pad_id: int,
        state: RunState, per_row: bool, group: Group = ALONE,
    ) -> None:  # fmt: skip
        self.writes = group.first
        super().__init__(model=model, args=arguments, train_dataset=list(data.rows))
        self.run_state, self._group = state, group
        self._data, self._steps, self._pad_id, self._lengths = data, steps, pad_id, data.lengths()
        self.loss = StepLoss(
            model.get_base_model(),
            budget_tokens=state.budget_tokens,
            per_row=per_row,
            autocast=self.accelerator.autocast,
            footprint=self._footprint(model.get_base_model()),
        )
        self.remove_callback(PrinterCallback)  # prints to stdout

    def _footprint(self, base: Any) -> Footprint | None:
        """What a step's rows hold, where memory is counted."""
        if self.args.device.type != "cuda":
            return None
        checkpointed = self.args.gradient_checkpointing
        return training_footprint(base.config, base.dtype, checkpointed=checkpointed)

    def get_train_dataloader(self) -> Any:
        """The planned steps as batches: this process's rows of each, `own`, and the places of all, `where`."""

        def load(where: list[int]) -> dict[str, Any]:
            own = self._group.share(where, self._lengths)
            return {**(self._data.batch(own, self._pad_id) if own else {}), "where": where, "own": own}

        numbers: Any = range(len(self._data.packs or self._data.rows))
        order = [step.tolist() for step in self._steps]
        pin = self.args.dataloader_pin_memory
        loader: Any = torch.utils.data.DataLoader(numbers, batch_sampler=order, collate_fn=load, pin_memory=pin)
        return self.accelerator.prepare(loader)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Gradients of one step; its loss, detached. DivergedError, naming rows, if that is not finite."""
        del num_items_in_batch
        train_without_chance(model)
        where, own = inputs.pop("where"), inputs.pop("own")
        data = self._data
        total = add_up_step(model, self._own_loss(inputs, where, own), self._group)
        number, loss = self.state.global_step, float(total)
        if not math.isfinite(loss):
            rows = [i for unit in where for i in data.parts(unit)]
            each = self.loss.rows(self._prepare_inputs(collate([data.rows[i] for i in rows], self._pad_id)))
            raise not_finite(f"The loss of step {number}", loss, [data.names[i] for i in rows], each)
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.now = Step(number, loss, rate, sum(self._lengths[unit] for unit in where))
        return total

    def _own_loss(self, inputs: dict[str, Any], where: list[int], own: list[int]) -> Tensor:
        """The loss of this process's rows of the step, a part of the step's; their gradients are added."""
        data = self._data
        if not own:
            return torch.zeros((), device=self.args.device)
        count = None
        if self._group.count > 1:
            count = self.loss.count_of([data.rows[i] for unit in where for i in data.parts(unit)])
        with _naming([data.name(unit) for unit in own]):
            return self.loss.backward(self._prepare_inputs(inputs), self.accelerator.backward, count=count)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: nobody reads it, and walking over all weights costs time at every step."""
        del inputs
        return 0

    def held_out_loss(self) -> float:
        """Mean loss over the supervised tokens of the rows held out. NtkselError, naming rows, if not finite."""
        self.model.eval()
        how = {"pad_id": self._pad_id, "device": self.args.device}
        rows = self._data.held_out
        own = self._group.share(range(len(rows)), [len(row) for row in rows])
        with _naming([self._data.held_out_names[i] for i in own]):
            sums = self.loss.sums([rows[i] for i in own], **how)
        total, count = self._group.add_up(torch.tensor(sums, dtype=torch.float64)).tolist()
        loss = float(total / max(1.0, count))
        if not math.isfinite(loss):
            each = [self.loss.mean([row], **how) for row in self._data.held_out]
            what = f"The held-out loss after step {self.now.number}"
            raise not_finite(what, loss, self._data.held_out_names, each)
        return float(np.float32(loss))  # as the store keeps it


def make_trainer(
    model: Any, arguments: Any, data: TrainingRows, steps: Sequence[NDArray[np.int64]], *, pad_id: int,
    state: RunState, per_row: bool = False, group: Group = ALONE,
) -> CompletionTrainer:  # fmt: skip
    """A Trainer of a peft model that takes these steps in this order; `per_row` as `StepLoss` has it.

    Of a `group` each process computes its share of every step, and all have the same weights after it.

    Raises:
        UsageError: the model is quantised by a method that can't be trained on.
    """
    try:
        return CompletionTrainer(
            model, arguments, data, steps, pad_id=pad_id, state=state, per_row=per_row, group=group
        )
    except ValueError as error:
        if "quantiz" not in str(error):
            raise
        method = getattr(model.config, "quantization_config", {})
        raise UsageError(
            f"The model's config.json says that it is quantised by {method_of(method)}, which can't be trained on.",
            "Give it in plain floats or quantised by bitsandbytes; if its weights are plain floats already, take "
            "`quantization_config` out of its config.json.",
        ) from error


@contextmanager
def _naming(names: Sequence[str]) -> Iterator[None]:
    """A row of these that does not fit in memory is named."""
    try:
        yield
    except DoesNotFitError as error:
        raise error.named(names[error.row], TOO_LONG) from error


def method_of(config: Any) -> str:
    """The name of a quantisation, from the model's configuration of it (an object or a dictionary)."""
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return str(getattr(method, "value", method))


def _report_held_out(trainer: Any, loss: float, control: Any) -> None:
    """Report it to the services that the steps are reported to."""
    wanted = control.should_log
    trainer.log({"eval_loss": loss})  # which takes the step's own log as done
    control.should_log = wanted


def checkpoint_callback(
    trainer: Any, *, on_step: Callable[[Step], None], progress: Progress, keep_best: Callable[[int], None] | None,
    patience: int | None, average: WeightAverage | None = None, keep_step: Callable[[int], None] | None = None,
) -> Any:  # fmt: skip
    """A callback that reports each step, evaluates on the rows held out, and marks each checkpoint whole.

    `keep_best` keeps the adapter as the best, after so many steps; None if no rows are held out. After `patience`
    evaluations without a lower loss training stops. `average` takes in the weights after every step, for checkpoints.
    `keep_step` keeps the adapter after so many steps: before the first one, and before a checkpoint is whole.
    """
    from transformers import TrainerCallback

    state: RunState = trainer.run_state

    class CheckpointCallback(TrainerCallback):  # type: ignore[misc]  # untyped base
        """Comes after the Trainer's own callback, which has decided by then whether to save."""

        def on_train_begin(self, args: Any, trainer_state: Any, control: Any, **_: Any) -> None:
            del args, control
            if keep_step is not None and trainer_state.global_step == 0:
                keep_step(0)

        def on_step_end(self, args: Any, trainer_state: Any, control: Any, **_: Any) -> None:
            step: Step = trainer.now
            state.rate_sum += step.learning_rate
            note = f"loss {step.loss:.3f}"
            last = trainer_state.global_step == trainer_state.max_steps
            if keep_best and (last or trainer_state.global_step % args.save_steps == 0):
                step = Step(step.number, step.loss, step.learning_rate, step.tokens, trainer.held_out_loss())
                self._judge(step, control)
                note += f", held out {step.held_out_loss:.3f}"
                if args.report_to:
                    _report_held_out(trainer, step.held_out_loss, control)
            if average is not None:
                average.add(trainer_state.global_step)
            on_step(step)
            progress.advance(1, tokens=step.tokens, note=note)

        def on_save(self, args: Any, trainer_state: Any, control: Any, **_: Any) -> None:
            del control
            state.budget_tokens = trainer.loss.budget.tokens
            folder = Path(args.output_dir) / f"checkpoint-{trainer_state.global_step}"
            if average is not None:
                average.save(folder)
            if keep_step is not None:
                keep_step(trainer_state.global_step)
            checkpoints.mark_whole(folder, state)

        def _judge(self, step: Step, control: Any) -> None:
            if keep_best and (state.best_loss is None or step.held_out_loss < state.best_loss):
                state.best_step, state.best_loss, state.worse = step.number + 1, step.held_out_loss, 0
                keep_best(step.number + 1)
                return
            state.worse += 1
            if patience is not None and state.worse >= patience:
                state.stopped = True
                control.should_training_stop, control.should_save = True, trainer.writes

    return CheckpointCallback()
