"""A base model after an adapter was put into it and taken off: the same modules, the same bytes, frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ntkcli.engine.models.attach import take_off, weight_hashes
from ntkcli.engine.models.loading import load_model
from ntkcli.identity import resolve_model


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_what_was_put_in_comes_off(model_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model

    loaded = load_model(resolve_model(str(model_dir)), dtype="float32", device="cpu")
    before, modules = weight_hashes(loaded.model), {name: type(own) for name, own in loaded.model.named_modules()}
    ids = torch.arange(3, 12)[None]
    logits = loaded.model(input_ids=ids).logits
    for _ in range(2):  # a second adapter: peft warns of one that is left, and warnings are errors here
        attached = get_peft_model(loaded.model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"]))
        attached.train()
        with torch.no_grad():
            for parameter in attached.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.5)
        assert not torch.equal(loaded.model(input_ids=ids).logits, logits)
        take_off(loaded.model)
        assert {name: type(own) for name, own in loaded.model.named_modules()} == modules
        assert weight_hashes(loaded.model) == before
        assert torch.equal(loaded.model(input_ids=ids).logits, logits)
        assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
        assert not loaded.model.training
