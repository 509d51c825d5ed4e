"""Training draws nothing: models whose configuration asks for dropout train as they are evaluated, however cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ntkcli.engine.models.loading import LoadedModel, decoder_of, head_form
from ntkcli.engine.training.loss import StepLoss, collate
from ntkcli.engine.training.mode import train_without_chance
from ntkcli.engine.training.train import TrainingOptions, train_adapter
from ntkcli.engine.training.trainer import TrainingRows
from ntkcli.progress import Silent
from tests.conftest import make_tokenizer
from tests.engine import zoo
from tests.engine.kit import make_rows

RATE = 0.4


def build_with_dropout(name: str) -> Any:
    """A model of the zoo, every rate of chance that its configuration knows set."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = {**zoo.DENSE, **zoo.EXPERTS}[name]
    plain = AutoConfig.for_model(kind, **settings).to_dict()
    words = ("drop", "jitter")
    rates = {key: RATE for key in plain if any(word in key for word in words) and not key.startswith("summary")}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**settings, **rates}), dtype=torch.float32)
    return model.requires_grad_(False)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # the Trainer's own word
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", [name for name in (*zoo.DENSE, *zoo.EXPERTS) if name != "gemma3_images"])
def test_a_training_step_s_loss_is_the_evaluated_one(name: str, checkpointing: bool) -> None:
    model = build_with_dropout(name).eval()
    head_form(model)
    weight = next(p for p in decoder_of(model).parameters() if p.dim() == 2).requires_grad_(True)
    batch = collate(make_rows([9, 4, 12]), pad_id=0)
    expected = model(**batch).loss.detach()
    if checkpointing and model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()  # as the Trainer leaves it before a step
    train_without_chance(model)
    runs = [0]
    block = next(m for m in decoder_of(model).modules() if isinstance(m, torch.nn.ModuleList))[0]
    inside = next(m for m in block.modules() if m is not block and not list(m.children()))
    inside.register_forward_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))
    loss = StepLoss(model, budget_tokens=10_000).backward(batch, lambda loss: loss.backward())
    groups = 2  # 9 and 12 tokens, and 4
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert weight.grad is not None
    if checkpointing and name.startswith(("llama", "gpt2", "opt", "mixtral")):
        assert runs[0] == 2 * groups  # computed again in the backward


def train(folder: Path, *, budget: int, checkpointing: bool = False) -> dict[str, torch.Tensor]:
    model = build_with_dropout("gpt2_conv1d").eval()
    head_form(model)
    loaded = LoadedModel(model, make_tokenizer(), torch.device("cpu"), torch.float32)
    options = TrainingOptions(
        learning_rate=1e-2, batch_size=4, rank=4, alpha=8, target_modules="all-linear", seed=0, checkpoint_steps=10,
        batch_tokens=budget, epochs=2, gradient_checkpointing=checkpointing,
    )  # fmt: skip
    rows = make_rows([9, 4, 12, 30, 5, 8, 7, 15])
    folder.mkdir()
    train_adapter(
        loaded,
        TrainingRows(rows, [str(i) for i in range(len(rows))]),
        options=options,
        folder=folder,
        on_step=lambda step: None,
        progress=Silent(),
        resume_at_most=0,
    )
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.filterwarnings("ignore")  # peft's, of Conv1D
def test_how_a_step_is_cut_changes_rounding_only(tmp_path: Path) -> None:
    one = train(tmp_path / "a", budget=10_000)
    for other in (
        train(tmp_path / "b", budget=16),
        train(tmp_path / "c", budget=10_000, checkpointing=True),
    ):
        assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-3
