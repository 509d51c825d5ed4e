"""Falcon: linear layers of a class of its own, whose outputs it adds to in place; peft's gradients, in every dtype."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ntkcli.engine.models.adapters import load_adapter
from ntkcli.engine.models.loading import load_model
from ntkcli.identity import resolve_adapter, resolve_model
from tests.conftest import make_tokenizer
from tests.engine import zoo
from tests.engine.kit import adapter_layers, assert_equal, load, make_engine, make_rows, peft_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it


@pytest.mark.parametrize("name", ["falcon_alibi", "falcon_rotary"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_peft_s(name: str, dtype: str, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    zoo.build(name).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    model, rows = resolve_model(str(tmp_path / "model")), make_rows([5, 12, 3, 9])
    torch.manual_seed(3)
    config = LoraConfig(r=3, lora_alpha=5, task_type="CAUSAL_LM", target_modules="all-linear")
    trained = get_peft_model(load_model(model, dtype="float32", device="cpu").model, config)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    trained.save_pretrained(tmp_path / "adapter")
    loaded = load_model(model, dtype=dtype, device="cpu")
    layers = load_adapter(loaded, resolve_adapter(str(tmp_path / "adapter"), adapters=tmp_path), model)
    found = make_engine(loaded, layers, probe="loss").features(rows, positions="targets")
    base = load_model(model, dtype=dtype, device="cpu").model.float()
    expected = peft_gradients(PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval(), rows)
    assert_equal(found, expected, tolerance=3 if dtype == "float32" else 1000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_layer_s_output_may_be_changed_in_place(dtype: torch.dtype) -> None:
    """Also where the update runs beside the weight, of which the output is made anew in another shape."""
    rows, sketches = make_rows([5, 9]), []
    for in_place in (False, True):
        loaded = load("llama", dtype)
        layers = adapter_layers(loaded.model, warm=True)
        if dtype == torch.bfloat16:
            for layer in layers:
                object.__setattr__(layer, "merged", False)
        if in_place:
            for layer in layers:
                layer.module.register_forward_hook(lambda _, __, output: output.mul_(1))
        sketches.append(make_engine(loaded, layers).features(rows, positions="all").sketch)
    assert torch.equal(*sketches)
