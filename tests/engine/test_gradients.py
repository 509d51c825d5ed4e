"""Per-example gradients against a loop that knows nothing of the engine: one row, autograd, real LoRA parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ntkcli.data.encoding import Encoded
from ntkcli.engine.adapters import AdaptedLayer, fresh_adapter, linear_layers
from ntkcli.engine.gradients import GradientEngine
from ntkcli.engine.models import LoadedModel
from ntkcli.engine.sketch import hash_u64
from tests.conftest import make_tokenizer

RANK, DIM, SEED = 3, 256, 5


def tiny_models() -> dict[str, Any]:
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Phi3Config,
        Phi3ForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    same = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
    }
    return {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**same)),
        "llama_tied": lambda: LlamaForCausalLM(LlamaConfig(**same, tie_word_embeddings=True)),
        "qwen2_bias": lambda: Qwen2ForCausalLM(Qwen2Config(**same)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**same, head_dim=8)),
        "gemma2_softcap": lambda: Gemma2ForCausalLM(Gemma2Config(**same, head_dim=8, sliding_window=4)),
        "phi3_fused": lambda: Phi3ForCausalLM(Phi3Config(**same)),
        "gpt2_conv1d": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0)
        ),
    }


def load(name: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    torch.manual_seed(0)
    model = tiny_models()[name]().to(dtype).eval().requires_grad_(False)
    return LoadedModel(model, make_tokenizer(), torch.device("cpu"), dtype)


def make_rows(lengths: list[int], seed: int = 0) -> list[Encoded]:
    draw = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        supervised = np.zeros(length, dtype=bool)
        supervised[-max(1, length // 3) :] = True
        rows.append(Encoded(draw.integers(3, 97, length).astype(np.int32), supervised, truncated=False))
    return rows


def adapter_layers(model: Any, *, warm: bool) -> list[AdaptedLayer]:
    """Layers as if a trained adapter had been merged: B not zero, s·BA in the weights."""
    layers = fresh_adapter(model, rank=RANK, target_modules="all-linear", seed=1)
    if not warm:
        return layers
    torch.manual_seed(7)
    warmed = []
    for layer in layers:
        b = 0.1 * torch.randn(layer.weight.shape[0], RANK, dtype=layer.weight.dtype)
        a = layer.a.to(layer.weight.dtype)
        layer.weight.data += 2.0 * b @ a
        warmed.append(AdaptedLayer(layer.name, layer.module, a, b, 2.0))
    return warmed


class PlainLora(nn.Module):
    """y = W0 x + s B (A x) with parameters A and B: what peft does, without peft."""

    def __init__(self, base: nn.Module, weight: torch.Tensor, layer: AdaptedLayer, dtype: torch.dtype) -> None:
        super().__init__()
        b = torch.zeros(weight.shape[0], RANK) if layer.b is None else layer.b
        self.a = nn.Parameter(layer.a.to(dtype))
        self.b = nn.Parameter(b.to(dtype))
        self.weight = (weight.to(dtype) - layer.scale * self.b @ self.a).detach()
        self.bias = None if getattr(base, "bias", None) is None else base.bias.to(dtype)
        self.scale = layer.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.linear(x, self.weight, self.bias)
        return y + self.scale * nn.functional.linear(nn.functional.linear(x, self.a), self.b)


def one_row_loop(name: str, layers: list[AdaptedLayer], rows: list[Encoded], positions: str) -> list[dict[str, Any]]:
    """Gradients in float64 by plain autograd through the whole model and its logits, one row at a time."""
    torch.manual_seed(0)
    model = tiny_models()[name]().double().eval().requires_grad_(False)
    plain = {}
    for layer in layers:
        parent = model.get_submodule(layer.name.rpartition(".")[0])
        plain[layer.name] = PlainLora(model.get_submodule(layer.name), layer.weight, layer, torch.float64)
        setattr(parent, layer.name.rpartition(".")[2], plain[layer.name])
    found = []
    for row in rows:
        logits = model(input_ids=torch.tensor(row.ids[None].astype(np.int64))).logits[0]
        if positions == "completion":
            value = logits[:-1][torch.tensor(row.supervised[1:])].sum(dim=-1).mean()
        elif positions == "all":
            value = logits.sum(dim=-1).mean()
        else:
            value = logits[-1].sum()
        wanted = [p for layer in plain.values() for p in (layer.a, layer.b)]
        grads = torch.autograd.grad(value, wanted)
        found.append(
            {
                n: (grads[2 * i].numpy(), grads[2 * i + 1].T.numpy())  # both as (rank, columns)
                for i, n in enumerate(plain)
            }
        )
    return found


def dense_sketch(gradients: dict[str, Any], dim: int = DIM) -> np.ndarray:
    """The sketch by its definition, coordinate by coordinate, in float64."""
    sketch = np.zeros(dim)
    for name, (grad_a, grad_b) in gradients.items():
        for factor, gradient in (("lora_A", grad_a), ("lora_B", grad_b)):
            key = f"{name}.{factor}"
            rank, columns = gradient.shape
            segments = -(-columns // dim)
            offsets = (((hash_u64(SEED, f"{key}|offset", rank * segments) >> 32) * dim) >> 32).astype(np.int64)
            alpha = np.where(hash_u64(SEED, f"{key}|row", rank) >> 63, 1.0, -1.0)
            beta = np.where(hash_u64(SEED, f"{key}|column", columns) >> 63, 1.0, -1.0)
            i, c = np.indices(gradient.shape)
            bucket = (offsets[i * segments + c // dim] + c % dim) % dim
            np.add.at(sketch, bucket, alpha[i] * beta[c] * gradient)
    return sketch


def norm_of(gradients: dict[str, Any]) -> float:
    return float(np.sqrt(sum((g**2).sum() for pair in gradients.values() for g in pair)))


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "warmed"])
@pytest.mark.parametrize("positions", ["completion", "all", "last"])
@pytest.mark.parametrize("name", list(tiny_models()))
def test_features_equal_a_one_row_loop(name: str, positions: str, warm: bool) -> None:
    rows = make_rows([5, 12, 3, 9])
    loaded = load(name)
    layers = adapter_layers(loaded.model, warm=warm)
    expected = one_row_loop(name, layers, rows, positions)
    found = GradientEngine(loaded, layers, dim=DIM, seed=SEED).features(rows, positions=positions)
    for i, gradients in enumerate(expected):
        norm = norm_of(gradients)
        assert norm > 0
        assert float(found.norm[i]) == pytest.approx(norm, rel=2e-4)
        np.testing.assert_allclose(found.sketch[i].numpy(), dense_sketch(gradients) / norm, atol=2e-5)


def test_fresh_adapter_has_no_gradient_for_a() -> None:
    loaded = load("llama")
    layers = fresh_adapter(loaded.model, rank=RANK, target_modules="all-linear", seed=1)
    for gradients in one_row_loop("llama", layers, make_rows([7]), "all"):
        assert all(not grad_a.any() for grad_a, _ in gradients.values())
    assert all(layer.b is None for layer in layers)


def test_features_do_not_depend_on_batch_padding_or_order() -> None:
    loaded = load("llama")
    engine = GradientEngine(loaded, adapter_layers(loaded.model, warm=True), dim=DIM, seed=SEED)
    rows = make_rows([4, 20, 9, 6, 13])
    together = engine.features(rows, positions="completion")
    for order in ([4, 2, 0, 1, 3], [3], [0, 1]):
        found = engine.features([rows[i] for i in order], positions="completion")
        np.testing.assert_allclose(found.sketch, together.sketch[order], atol=2e-6)
        np.testing.assert_allclose(found.norm, together.norm[order], rtol=1e-5)


def test_wide_layers_are_cut_into_segments() -> None:
    """A layer wider than the sketch: every segment has an offset of its own."""
    rows = make_rows([6, 4])
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    expected = one_row_loop("llama", layers, rows, "all")
    dim = 16  # the model is 32 wide
    found = GradientEngine(loaded, layers, dim=dim, seed=SEED).features(rows, positions="all")
    for i, gradients in enumerate(expected):
        sketch = dense_sketch(gradients, dim) / norm_of(gradients)
        np.testing.assert_allclose(found.sketch[i].numpy(), sketch, atol=2e-5)


def test_bfloat16_is_near_float32() -> None:
    rows = make_rows([12, 8, 5])
    exact = load("llama")
    reference = GradientEngine(exact, adapter_layers(exact.model, warm=True), dim=DIM, seed=SEED)
    half = load("llama", torch.bfloat16)
    layers = adapter_layers(load("llama").model, warm=True)
    modules = linear_layers(half.model, "all-linear")
    for layer in layers:
        modules[layer.name].weight.data.copy_(layer.weight)
    engine = GradientEngine(
        half, [AdaptedLayer(x.name, modules[x.name], x.a, x.b, x.scale) for x in layers], dim=DIM, seed=SEED
    )
    a = reference.features(rows, positions="all")
    b = engine.features(rows, positions="all")
    assert b.sketch.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(a.sketch, b.sketch)
    assert float(cosine.min()) > 0.98


def test_no_gradient_reaches_the_embedding_table() -> None:
    loaded = load("llama")
    engine = GradientEngine(loaded, adapter_layers(loaded.model, warm=False), dim=DIM, seed=SEED)
    engine.features(make_rows([5]), positions="all")
    assert all(p.grad is None for p in loaded.model.parameters())
