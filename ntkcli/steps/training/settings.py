"""How to fine-tune, as far as it can change the adapter: checked, and as a spec."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ntkcli.choices import LossPer, Schedule, checked
from ntkcli.errors import UsageError
from ntkcli.identity import AdapterIdentity, ModelIdentity, refuse_other_base, resolve_adapter
from ntkcli.seeds import check_training_seed
from ntkcli.steps.shared.cost import hidden_size

if TYPE_CHECKING:
    from ntkcli.engine.models.loading import LoadedModel
    from ntkcli.engine.training.train import TrainingOptions

VERSION = 3
"""Of the training, in every spec: goes up when the same settings would give other weights."""
EPOCHS, RANK, TARGET_MODULES = 3, 16, "all-linear"
AVERAGED_SHARE = 0.25
"""Of the steps, the last ones whose weights --average-weights takes the mean of."""
PACKING = 1
"""Of the packing, in the spec of packed runs: goes up when the same rows would be packed in another way."""
CHECKPOINTS = 10
"""Checkpoints a run makes by default: a kill loses a tenth of it at most."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """The options of `ntkcli.steps.training.finetune.finetune` that can change a weight, as given: None is a
    default."""

    epochs: int | None = None
    max_tokens: int | None = None
    lr: float | None = None
    schedule: Schedule = Schedule.COSINE
    warmup: float = 0.03
    rank: int | None = None
    alpha: float | None = None
    target_modules: str | None = None
    batch_size: int = 16
    seed: int = 0
    hold_out: float = 0.0
    patience: int | None = None
    checkpoint_steps: int | None = None
    loss_per: LossPer = LossPer.TOKEN
    average_weights: bool = False
    max_steps: int | None = None
    pack: bool = False

    def check(self) -> None:
        """UsageError for a value that can't be used, or two that exclude each other."""
        numbers: dict[str, float | None] = {
            "--epochs": self.epochs,
            "--max-tokens": self.max_tokens,
            "--max-steps": self.max_steps,
            "--batch-size": self.batch_size,
        }
        numbers |= {"--rank": self.rank, "--lr": self.lr, "--alpha": self.alpha, "--patience": self.patience}
        numbers |= {"--checkpoint-steps": self.checkpoint_steps}
        check_training_seed("--seed", self.seed)
        for option, value in numbers.items():
            if value is not None and not (0 < value < math.inf):
                raise UsageError(f"{option} {value}: must be positive.", "Leave it out for the default.")
        ends = {"--epochs": self.epochs, "--max-tokens": self.max_tokens, "--max-steps": self.max_steps}
        if len(both := [option for option, value in ends.items() if value is not None]) > 1:
            raise UsageError(f"{both[0]} and {both[1]} both say when to stop.", "Give one of them.")
        checked(Schedule, self.schedule, "--schedule")
        if not 0 <= self.warmup < 1:
            raise UsageError(
                f"--warmup {self.warmup}: not a valid share of the steps.", "Give 0 or more and less than 1."
            )
        if not 0 <= self.hold_out < 1:
            raise UsageError(
                f"--hold-out {self.hold_out}: not a valid share of the rows.", "Give 0 or more and less than 1."
            )
        checked(LossPer, self.loss_per, "--loss-per")
        if self.average_weights and self.hold_out:
            raise UsageError(
                "--average-weights keeps the mean of the last steps' weights; --hold-out keeps the weights of the "
                "lowest held-out loss.",
                "Give one of them.",
            )
        if self.patience is not None and not self.hold_out:
            raise UsageError("--patience needs rows to judge by.", "Give --hold-out 0.1, or leave --patience out.")

    def for_model(self, model: ModelIdentity) -> Self:
        """With the usual learning rate of a model of its width, where none was given."""
        return self if self.lr is not None else replace(self, lr=usual_rate(hidden_size(model)))

    def spec(self, init: InitAdapter | None) -> dict[str, Any]:
        """Every setting with its default filled in (the learning rate's by `for_model`).

        An adapter to go on from brings its own rank, alpha and modules.
        """
        rank = RANK if self.rank is None else self.rank
        shape = {
            "rank": rank,
            "alpha": float(2 * rank if self.alpha is None else self.alpha),
            "target_modules": self.target_modules or TARGET_MODULES,
        }
        spec: dict[str, Any] = {
            "version": VERSION,
            "epochs": EPOCHS
            if self.max_tokens is None and self.max_steps is None and self.epochs is None
            else self.epochs,
            "max_tokens": self.max_tokens,
            "lr": self.lr,
            "schedule": self.schedule,
            "warmup": self.warmup,
            "batch_size": self.batch_size,
            "seed": self.seed,
            **(shape if init is None else init.shape),
            "init_adapter": None if init is None else init.identity.spec,
            "hold_out": self.hold_out,
            "patience": self.patience,
        }
        if self.hold_out:  # there a checkpoint is an evaluation, and decides which adapter is kept
            spec["checkpoint_steps"] = self.checkpoint_steps
        if self.max_steps is not None:
            spec["max_steps"] = self.max_steps
        if self.loss_per != LossPer.TOKEN:
            spec["loss_per"] = self.loss_per
        if self.average_weights:
            spec["average_weights"] = AVERAGED_SHARE
        if self.pack:
            spec["packed"] = PACKING
        return spec

    def pick_batch_tokens(self, loaded: LoadedModel, *, init: InitAdapter | None, checkpointed: bool) -> int:
        """Padded tokens that are computed at a time, if the user does not say."""
        from ntkcli.engine.training.size import pick_batch_tokens

        spec = self.spec(init)
        return pick_batch_tokens(
            loaded,
            rank=spec["rank"],
            target_modules=spec["target_modules"],
            init=None if init is None else init.identity,
            checkpointed=checkpointed,
        )

    def options(
        self, spec: dict[str, Any], *, init: InitAdapter | None, checkpoint_steps: int, batch_tokens: int,
        gradient_checkpointing: bool, keep_optimizer: bool, keep_checkpoints: bool = False,
    ) -> TrainingOptions:  # fmt: skip
        """What the engine takes. The learning rate was filled in by `for_model`."""
        from ntkcli.engine.training.train import TrainingOptions

        return TrainingOptions(
            learning_rate=spec["lr"],
            batch_size=self.batch_size,
            rank=spec["rank"],
            alpha=spec["alpha"],
            target_modules=spec["target_modules"],
            seed=self.seed,
            checkpoint_steps=checkpoint_steps,
            batch_tokens=batch_tokens,
            epochs=spec["epochs"],
            max_tokens=self.max_tokens,
            max_steps=self.max_steps,
            schedule=self.schedule,
            warmup=self.warmup,
            gradient_checkpointing=gradient_checkpointing,
            patience=self.patience,
            init=None if init is None else init.identity,
            keep_optimizer=keep_optimizer,
            keep_checkpoints=keep_checkpoints,
            per_row=self.loss_per == LossPer.ROW,
            average_weights=AVERAGED_SHARE if self.average_weights else 0.0,
        )


def usual_rate(width: int) -> float:
    """The default learning rate for a model whose hidden states have `width` numbers, to two digits.

    5e-4 · (2000 / width)^0.781, fitted to Llama models by Schulman et al. (LoRA Without Regret, 2025), but at most
    1e-3, the rate at which docs/results.md trains 135M parameters: 1e-3 at a width of 576, 2.9e-4 at 4,096.
    """
    return float(f"{min(1e-3, 5e-4 * (2000 / width) ** 0.781):.2g}")


@dataclass(frozen=True, slots=True)
class InitAdapter:
    """An adapter to continue from, and its rank, alpha and modules."""

    identity: AdapterIdentity
    shape: dict[str, Any]


def resolve_init(
    reference: str | None, settings: TrainingSettings, *, adapters: Path, model: ModelIdentity
) -> InitAdapter | None:
    """The adapter that `--init-adapter` names; None for None.

    Raises:
        UsageError: there is none, it is not a LoRA adapter, or an option asks for another shape than it has.
        SpecError: it was trained on another base model.
    """
    if reference is None:
        return None
    try:
        identity = resolve_adapter(reference, adapters=adapters)
    except UsageError as error:
        raise UsageError(error.what.replace("--adapter", "--init-adapter", 1), error.fix) from error
    refuse_other_base(identity, model)
    config = json.loads((identity.folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise UsageError(f"--init-adapter {reference}: expected a LoRA adapter, found {config.get('peft_type')}.")
    modules = config.get("target_modules")
    shape = {
        "rank": config.get("r"),
        "alpha": float(config.get("lora_alpha", 0)),
        "target_modules": modules if isinstance(modules, str) else ",".join(sorted(modules or [])),
    }
    given = {"--rank": settings.rank, "--alpha": settings.alpha, "--target-modules": settings.target_modules}
    for (option, value), own in zip(given.items(), shape.values(), strict=True):
        if value is not None and value != own:
            raise UsageError(
                f"{option} {value}: the adapter {reference} has {own}, and it stays as it is.", f"Leave {option} out."
            )
    return InitAdapter(identity, shape)
