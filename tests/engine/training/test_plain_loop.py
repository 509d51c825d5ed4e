"""A whole training against a plain loop with peft, AdamW and clipped gradients: every loss, rate and final weight."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

from ntkcli.data.packing import pack_rows
from ntkcli.engine.training.step_plan import plan_stages
from ntkcli.engine.training.train import TrainingOptions, train_adapter
from ntkcli.engine.training.trainer import Step, TrainingRows
from ntkcli.progress import Silent
from tests.engine.kit import load, make_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # peft's, and the Trainer's

ROWS: Final = make_rows([9, 4, 12, 20, 5, 7, 3, 15, 6, 11])
PACKS: Final = pack_rows([len(row) for row in ROWS], 24, seed=0)
COMMON: Final[dict[str, Any]] = {
    "learning_rate": 0.05, "batch_size": 3, "rank": 2, "alpha": 4, "target_modules": "all-linear", "seed": 1,
    "checkpoint_steps": 100, "batch_tokens": 30,
}  # fmt: skip
CASES: Final[dict[str, dict[str, Any]]] = {
    "token, cosine": {"epochs": 2},
    "row, linear": {"epochs": 2, "per_row": True, "schedule": "linear", "warmup": 0.2},
    "tokens, averaged": {"max_tokens": 150, "schedule": "constant", "average_weights": 0.5},
    "packed, row": {"epochs": 2, "per_row": True, "packs": PACKS},
    "packed, token": {"max_steps": 5, "packs": PACKS},
    "two stages": {"epochs": 1, "schedule": "linear", "stages": (4, 6)},
    "checkpointing": {"epochs": 1, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("case", list(CASES))
def test_losses_rates_and_weights_are_those_of_a_plain_loop(case: str, tmp_path: Path) -> None:
    how = dict(CASES[case])
    packs, stages = how.pop("packs", ()), how.pop("stages", ())
    options = TrainingOptions(**COMMON, **how)
    steps: list[Step] = []
    data = TrainingRows(ROWS, [str(i) for i in range(len(ROWS))], packs=packs, stages=stages)
    further: dict[str, Any] = {"on_step": steps.append, "progress": Silent(), "resume_at_most": 0}
    train_adapter(load("llama"), data, options=options, folder=tmp_path, **further)
    found = load_file(tmp_path / "adapter_model.safetensors")
    expected, losses, rates = plain_loop(options, packs, stages)
    assert [step.learning_rate for step in steps] == pytest.approx(rates, rel=1e-9, abs=1e-12)
    assert [step.loss for step in steps] == pytest.approx(losses, rel=1e-4)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-4)
    assert max(float(weight.abs().max()) for name, weight in found.items() if "lora_B" in name) > 0.05, "it has learnt"


def plain_loop(options: TrainingOptions, packs: Any, stages: Any) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """The weights at the end by their names in a file, and the losses and learning rates of the steps."""
    loaded = load("llama")
    torch.manual_seed(options.seed)
    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(loaded.model, config).eval()
    weights = {name.replace(".default", ""): p for name, p in model.named_parameters() if p.requires_grad}
    lengths = [sum(len(ROWS[i]) for i in pack) for pack in packs] if packs else [len(row) for row in ROWS]
    budget = {key: getattr(options, key) for key in ("batch_size", "seed", "epochs", "max_tokens", "max_steps")}
    plan = plan_stages(lengths, stages, **budget)
    optimiser = torch.optim.AdamW(weights.values(), betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses, rates, course = [], [], []
    for k, units in enumerate(plan):
        rates.append(options.learning_rate * share_of_rate(options, k, len(plan)))
        optimiser.param_groups[0]["lr"] = rates[-1]
        rows = [i for unit in units for i in (packs[unit] if packs else [unit])]
        of_rows = [row_losses(model, i) for i in rows]
        loss = torch.stack([each.mean() for each in of_rows]).mean() if options.per_row else torch.cat(of_rows).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        course.append({name: p.detach().clone() for name, p in weights.items()})
    last = course[-max(1, math.floor(options.average_weights * len(plan))) :]
    return {name: torch.stack([at[name] for at in last]).mean(0) for name in weights}, losses, rates


def share_of_rate(options: TrainingOptions, step: int, steps: int) -> float:
    """What a step's learning rate is of the highest."""
    rising = math.ceil(options.warmup * steps)
    if step < rising:
        return step / rising
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
    return 1.0 if options.schedule == "constant" else (steps - step) / (steps - rising)


def row_losses(model: Any, i: int) -> Tensor:
    """The loss of each supervised token of a row by itself."""
    ids = torch.tensor(ROWS[i].ids.astype("int64"))
    supervised = torch.tensor(ROWS[i].supervised[1:])
    logits = model(input_ids=ids[None]).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits[supervised], ids[1:][supervised], reduction="none")
