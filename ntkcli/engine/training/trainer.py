"""transformers' Trainer with the loss of `ntkcli.engine.training.loss`, planned steps, and a watcher of its course."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import plan_batches
from ntkcli.engine.training import checkpoints
from ntkcli.engine.training.checkpoints import RunState
from ntkcli.engine.training.loss import StepLoss, collate, not_finite
from ntkcli.errors import NtkselError, UsageError
from ntkcli.progress import Progress


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
    """Rows to train on (repeats allowed), a name of each for messages, and rows held out to judge by."""

    rows: Sequence[Encoded]
    names: Sequence[str]
    held_out: Sequence[Encoded] = ()


def make_trainer(
    model: Any, arguments: Any, data: TrainingRows, steps: Sequence[NDArray[np.int64]], *, pad_id: int, state: RunState
) -> Any:
    """A Trainer of a peft model that takes these steps in this order."""
    from transformers import PrinterCallback, Trainer

    class CompletionTrainer(Trainer):  # type: ignore[misc]  # untyped base
        """Trainer with our steps and loss; remembers loss, rate and tokens of the step under way in `now`."""

        now = Step(0, 0.0, 0.0, 0)
        course = state

        def get_train_dataloader(self) -> Any:
            def load(where: list[int]) -> dict[str, Any]:
                return {**collate([data.rows[i] for i in where], pad_id), "where": where}

            numbers: Any = range(len(data.rows))
            order = [step.tolist() for step in steps]
            pin = self.args.dataloader_pin_memory
            loader: Any = torch.utils.data.DataLoader(numbers, batch_sampler=order, collate_fn=load, pin_memory=pin)
            return self.accelerator.prepare(loader)

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
            del num_items_in_batch
            model.train()
            where = inputs.pop("where")
            batch = self._prepare_inputs(inputs)
            total: Tensor = self.loss.backward(batch, self.accelerator.backward)
            number, loss = self.state.global_step, float(total)
            if not math.isfinite(loss):
                raise not_finite(number, loss, [data.names[i] for i in where], self.loss.rows(batch))
            rate = float(self.optimizer.param_groups[0]["lr"])
            self.now = Step(number, loss, rate, sum(len(data.rows[i]) for i in where))
            return total

        def floating_point_ops(self, inputs: Any) -> int:
            """Not counted: nobody reads it, and walking over all weights costs time at every step."""
            del inputs
            return 0

        def held_out_loss(self) -> float:
            """Mean loss over the supervised tokens of the rows held out."""
            self.model.eval()
            return float(np.float32(self.loss.mean(held_out, self.args.device)))  # as the store keeps it

    try:
        trainer = CompletionTrainer(model=model, args=arguments, train_dataset=list(data.rows))
    except ValueError as error:
        if "quantiz" not in str(error):
            raise
        method = getattr(model.config, "quantization_config", {})
        raise UsageError(
            f"The model's config.json says that it is quantised by {method_of(method)}, which can't be trained on.",
            "Give it in plain floats or quantised by bitsandbytes; if its weights are plain floats already, take "
            "`quantization_config` out of its config.json.",
        ) from error
    trainer.loss = StepLoss(
        model.get_base_model(), budget_tokens=state.budget_tokens, autocast=trainer.accelerator.autocast
    )
    batches = plan_batches([len(row) for row in data.held_out], state.budget_tokens)
    held_out = [collate([data.held_out[i] for i in where], pad_id) for where in batches]
    trainer.remove_callback(PrinterCallback)  # prints to stdout
    return trainer


def method_of(config: Any) -> str:
    """The name of a quantisation, from the model's configuration of it (an object or a dictionary)."""
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return str(getattr(method, "value", method))


def make_watcher(
    trainer: Any,
    *,
    on_step: Callable[[Step], None],
    progress: Progress,
    save_best: Callable[[Path], None] | None,
    patience: int | None,
) -> Any:
    """A callback that reports each step, evaluates on the rows held out, and marks each checkpoint whole.

    `save_best` writes the adapter into a folder; None if no rows are held out. `patience`: evaluations without a lower
    loss before training stops.
    """
    from transformers import TrainerCallback

    state: RunState = trainer.course

    class Watcher(TrainerCallback):  # type: ignore[misc]  # untyped base
        """Comes after the Trainer's own callback, which has decided by then whether to save."""

        def on_step_end(self, args: Any, trainer_state: Any, control: Any, **_: Any) -> None:
            step: Step = trainer.now
            state.rate_sum += step.learning_rate
            note = f"loss {step.loss:.3f}"
            last = trainer_state.global_step == trainer_state.max_steps
            if save_best and (last or trainer_state.global_step % args.save_steps == 0):
                step = Step(step.number, step.loss, step.learning_rate, step.tokens, trainer.held_out_loss())
                self._judge(step, Path(args.output_dir), control)
                note += f", held out {step.held_out_loss:.3f}"
            on_step(step)
            progress.advance(1, tokens=step.tokens, note=note)

        def on_save(self, args: Any, trainer_state: Any, control: Any, **_: Any) -> None:
            del control
            state.budget_tokens = trainer.loss.budget_tokens
            checkpoints.mark_whole(Path(args.output_dir) / f"checkpoint-{trainer_state.global_step}", state)

        def _judge(self, step: Step, folder: Path, control: Any) -> None:
            if not math.isfinite(step.held_out_loss):
                raise NtkselError(
                    f"The held-out loss after step {step.number} is {step.held_out_loss}: training has diverged.",
                    "Lower --lr, or give --dtype float32; then give the run another --name.",
                )
            if save_best and (state.best_loss is None or step.held_out_loss < state.best_loss):
                state.best_step, state.best_loss, state.worse = step.number + 1, step.held_out_loss, 0
                checkpoints.keep_best(folder, step.number + 1, save_best)
                return
            state.worse += 1
            if patience is not None and state.worse >= patience:
                state.stopped = True
                control.should_training_stop = control.should_save = True

    return Watcher()
