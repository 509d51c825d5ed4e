"""Per-example gradients against a loop that knows nothing of the engine: one row, autograd, real LoRA parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ntkcli.data.encoding import Encoded
from ntkcli.engine.adam import FactorMoments, load_moments
from ntkcli.engine.adapters import AdaptedLayer, fresh_adapter, linear_layers, only_layers
from ntkcli.engine.gradients import GradientEngine
from ntkcli.engine.models import LoadedModel
from ntkcli.engine.probes import LogitProbe, LossProbe, direction
from ntkcli.engine.projections import dense_signs, make_projection
from ntkcli.engine.sketch import hash_u64
from ntkcli.errors import SpecError, UsageError
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


def make_engine(
    loaded: LoadedModel,
    layers: list[AdaptedLayer],
    *,
    dim: int = DIM,
    probe: str = "sum",
    probes: int = 1,
    projection: str = "sjlt",
    moments: dict[str, FactorMoments] | None = None,
) -> GradientEngine:
    made = make_projection(projection, dim=dim, seed=SEED, device=loaded.device)
    chosen: list[Any] = (
        [LossProbe(loaded.model)]
        if probe == "loss"
        else [LogitProbe(loaded.model, probe, seed=SEED, number=k) for k in range(probes)]
    )
    return GradientEngine(loaded, layers, projection=made, probes=chosen, seed=SEED, moments=moments)


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


def one_row_loop(
    name: str, layers: list[AdaptedLayer], rows: list[Encoded], positions: str, *, v: torch.Tensor | None = None
) -> list[dict[str, Any]]:
    """Gradients in float64 by plain autograd through the whole model and its logits, one row at a time.

    Of v·logits (default: their sum) over the positions, or for positions `loss` of the mean completion cross-entropy.
    """
    torch.manual_seed(0)
    model = tiny_models()[name]().double().eval().requires_grad_(False)
    plain = {}
    for layer in layers:
        parent = model.get_submodule(layer.name.rpartition(".")[0])
        plain[layer.name] = PlainLora(model.get_submodule(layer.name), layer.weight, layer, torch.float64)
        setattr(parent, layer.name.rpartition(".")[2], plain[layer.name])
    found = []
    for row in rows:
        ids = torch.tensor(row.ids.astype(np.int64))
        logits = model(input_ids=ids[None]).logits[0]
        answer = torch.tensor(row.supervised[1:])
        along_v = logits.sum(dim=-1) if v is None else logits @ v.double()
        if positions == "loss":
            value = torch.nn.functional.cross_entropy(logits[:-1][answer], ids[1:][answer])
        elif positions == "completion":
            value = along_v[:-1][answer].mean()
        elif positions == "all":
            value = along_v.mean()
        else:
            value = along_v[-1]
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
    found = make_engine(loaded, layers, dim=DIM).features(rows, positions=positions)
    for i, gradients in enumerate(expected):
        norm = norm_of(gradients)
        assert norm > 0
        assert float(found.norm[i]) == pytest.approx(norm, rel=2e-4)
        np.testing.assert_allclose(found.sketch[i].numpy(), dense_sketch(gradients) / norm, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2_conv1d"])
def test_adams_steps_equal_a_one_row_loop(name: str, tmp_path: Path) -> None:
    """LESS's formula on whole gradients in float64, sketched afterwards; the moments read from a file."""
    rows = make_rows([5, 12, 3, 9])
    loaded = load(name)
    layers = adapter_layers(loaded.model, warm=True)
    draw = torch.Generator().manual_seed(3)
    held = {}
    for layer in layers:
        for factor, like in (("lora_A", layer.a), ("lora_B", layer.b)):
            assert like is not None
            held[f"{layer.name}.{factor}.exp_avg"] = 0.1 * torch.randn(like.shape, generator=draw)
            held[f"{layer.name}.{factor}.exp_avg_sq"] = 0.1 * torch.rand(like.shape, generator=draw)
    said = {"step": "9", "beta1": "0.8", "beta2": "0.95", "eps": "0.001", "mean_learning_rate": "0.1"}
    save_file(held, tmp_path / "optimizer.safetensors", metadata=said)
    moments = load_moments(tmp_path / "optimizer.safetensors", layers, loaded.device)
    found = make_engine(loaded, layers, probe="loss", moments=moments).features(rows, positions="targets")

    def step(gradient: np.ndarray, key: str) -> np.ndarray:
        m, v = (held[f"{key}.{which}"].double().numpy() for which in ("exp_avg", "exp_avg_sq"))
        m, v = (m.T, v.T) if key.endswith("lora_B") else (m, v)
        taken: np.ndarray = (0.8 * m + 0.2 * gradient) / np.sqrt(0.95 * v + 0.05 * gradient**2 + 0.001)
        return taken

    for i, gradients in enumerate(one_row_loop(name, layers, rows, "loss")):
        steps = {n: (step(a, f"{n}.lora_A"), step(b, f"{n}.lora_B")) for n, (a, b) in gradients.items()}
        norm = norm_of(steps)
        assert float(found.norm[i]) == pytest.approx(norm, rel=2e-4)
        np.testing.assert_allclose(found.sketch[i].numpy(), dense_sketch(steps) / norm, atol=2e-5)


def test_moments_of_another_adapter_are_refused(tmp_path: Path) -> None:
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    path = tmp_path / "optimizer.safetensors"
    said = {"beta1": "0.9", "beta2": "0.999", "eps": "1e-8"}
    key = f"{layers[0].name}.lora_A"
    for tensors, text in (
        ({"x": torch.zeros(1)}, f"no moments of {key}"),
        ({f"{key}.{m}": torch.zeros(RANK + 1, 32) for m in ("exp_avg", "exp_avg_sq")}, r"are \(4, 32\)"),
    ):
        save_file(tensors, path, metadata=said)
        with pytest.raises(SpecError, match=text):
            load_moments(path, layers, loaded.device)
    with pytest.raises(SpecError, match="never trained"):
        load_moments(path, adapter_layers(loaded.model, warm=False), loaded.device)


def test_fresh_adapter_has_no_gradient_for_a() -> None:
    loaded = load("llama")
    layers = fresh_adapter(loaded.model, rank=RANK, target_modules="all-linear", seed=1)
    for gradients in one_row_loop("llama", layers, make_rows([7]), "all"):
        assert all(not grad_a.any() for grad_a, _ in gradients.values())
    assert all(layer.b is None for layer in layers)


def test_features_do_not_depend_on_batch_padding_or_order() -> None:
    loaded = load("llama")
    engine = make_engine(loaded, adapter_layers(loaded.model, warm=True), dim=DIM)
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
    found = make_engine(loaded, layers, dim=dim).features(rows, positions="all")
    for i, gradients in enumerate(expected):
        sketch = dense_sketch(gradients, dim) / norm_of(gradients)
        np.testing.assert_allclose(found.sketch[i].numpy(), sketch, atol=2e-5)


def test_bfloat16_is_near_float32() -> None:
    rows = make_rows([12, 8, 5])
    exact = load("llama")
    reference = make_engine(exact, adapter_layers(exact.model, warm=True), dim=DIM)
    half = load("llama", torch.bfloat16)
    layers = adapter_layers(load("llama").model, warm=True)
    modules = linear_layers(half.model, "all-linear")
    for layer in layers:
        modules[layer.name].weight.data.copy_(layer.weight)
    engine = make_engine(half, [AdaptedLayer(x.name, modules[x.name], x.a, x.b, x.scale) for x in layers])
    a = reference.features(rows, positions="all")
    b = engine.features(rows, positions="all")
    assert b.sketch.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(a.sketch, b.sketch)
    assert float(cosine.min()) > 0.98


def test_no_gradient_reaches_the_embedding_table() -> None:
    loaded = load("llama")
    engine = make_engine(loaded, adapter_layers(loaded.model, warm=False), dim=DIM)
    engine.features(make_rows([5]), positions="all")
    assert all(p.grad is None for p in loaded.model.parameters())


@pytest.mark.parametrize("name", ["llama", "gemma2_softcap", "gpt2_conv1d"])
@pytest.mark.parametrize("probe", ["rademacher", "centred", "loss"])
def test_probes_equal_a_one_row_loop(name: str, probe: str) -> None:
    rows = make_rows([5, 12, 3])
    loaded = load(name)
    layers = adapter_layers(loaded.model, warm=True)
    v = None if probe == "loss" else direction(probe, 97, seed=SEED, number=0)
    expected = one_row_loop(name, layers, rows, "loss" if probe == "loss" else "completion", v=v)
    positions = "targets" if probe == "loss" else "completion"
    found = make_engine(loaded, layers, probe=probe).features(rows, positions=positions)
    for i, gradients in enumerate(expected):
        norm = norm_of(gradients)
        assert float(found.norm[i]) == pytest.approx(norm, rel=5e-4)
        np.testing.assert_allclose(found.sketch[i].numpy(), dense_sketch(gradients) / norm, atol=5e-5)


def test_exact_gradients_and_the_kernel_of_several_probes() -> None:
    """`none` keeps every coordinate; K probes give the mean of their kernels, unbiased over the mixing signs."""
    rows = make_rows([7, 5])
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    kernels, norms = [], []
    for k in range(3):
        v = direction("rademacher", 97, seed=SEED, number=k)
        flat = [
            np.concatenate([g.ravel() for name in x for g in (x[name][1], x[name][0])])
            for x in one_row_loop("llama", layers, rows, "completion", v=v)
        ]
        kernels.append(float(flat[0] @ flat[1]))
        norms.append([float(f @ f) for f in flat])
        if k == 0:
            one = make_engine(loaded, layers, probe="rademacher", projection="none")
            found = one.features(rows, positions="completion")
            np.testing.assert_allclose(found.sketch[0].numpy() * float(found.norm[0]), flat[0], atol=1e-5)
    made = make_projection("none", dim=0, seed=0, device=loaded.device)
    probes = [LogitProbe(loaded.model, "rademacher", seed=SEED, number=k) for k in range(3)]
    dots = []
    for seed in range(60):
        made = make_projection("none", dim=0, seed=0, device=loaded.device)
        engine = GradientEngine(loaded, layers, projection=made, probes=probes, seed=seed)
        found = engine.features(rows, positions="completion")
        np.testing.assert_allclose(found.norm.numpy() ** 2, np.mean(norms, axis=0), rtol=1e-4)
        dots.append(float(found.sketch[0] @ found.sketch[1]) * float(found.norm[0] * found.norm[1]))
    spread = np.std(dots) / np.sqrt(len(dots))
    assert abs(np.mean(dots) - np.mean(kernels)) < 4 * spread + 1e-6


def test_a_shift_of_the_head_leaves_centred_alone_and_kills_sum() -> None:
    """docs/method.md: W - 1 w^T changes no probability; `centred` can't see it, `sum` becomes 0 with w the mean row."""
    rows = make_rows([6, 9])
    found = {}
    for shifted in (False, True):
        loaded = load("llama")
        if shifted:
            head = loaded.model.get_output_embeddings().weight
            head.data -= head.data.mean(dim=0)
        layers = adapter_layers(loaded.model, warm=True)
        for probe in ("sum", "centred"):
            found[probe, shifted] = make_engine(loaded, layers, probe=probe).features(rows, positions="completion")
    plain, moved = found["centred", False], found["centred", True]
    np.testing.assert_allclose(moved.norm, plain.norm, rtol=1e-4)
    np.testing.assert_allclose(moved.sketch, plain.sketch, atol=1e-5)
    assert float((found["sum", True].norm / found["sum", False].norm).max()) < 1e-4


def test_backward_stops_at_the_lowest_chosen_layer() -> None:
    rows = make_rows([8, 4])
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    upper = only_layers(layers, "last:1")
    assert {layer.name.split(".")[2] for layer in upper} == {"1"}
    seen: list[int] = []
    for i, block in enumerate(loaded.model.model.layers):
        block.register_forward_hook(lambda m, args, out, i=i: seen.append(i) if out.requires_grad else None)
    found = make_engine(loaded, upper).features(rows, positions="completion")
    assert seen == [1], "a graph was built below the lowest adapter"
    kept = [
        {n: g for n, g in gradients.items() if ".1." in n}
        for gradients in one_row_loop("llama", layers, rows, "completion")
    ]
    for i, gradients in enumerate(kept):
        np.testing.assert_allclose(found.sketch[i], dense_sketch(gradients) / norm_of(gradients), atol=2e-5)


@pytest.mark.parametrize("wanted", ["first", "7", "last:9", "1-", ""])
def test_layers_that_are_not_there(wanted: str) -> None:
    with pytest.raises(UsageError, match="blocks 0 to 1"):
        only_layers(fresh_adapter(load("llama").model, rank=1, target_modules="all-linear", seed=0), wanted)


def test_dense_projection_is_the_product_with_its_sign_matrix() -> None:
    rows = make_rows([6, 5])
    loaded = load("llama")
    layers = adapter_layers(loaded.model, warm=True)
    exact = make_engine(loaded, layers, projection="none").features(rows, positions="all")
    found = make_engine(loaded, layers, projection="rademacher", dim=64).features(rows, positions="all")
    projection = make_projection("rademacher", dim=64, seed=SEED, device=loaded.device)
    matrix = []
    for layer in layers:
        for factor, columns in (("lora_B", layer.weight.shape[0]), ("lora_A", layer.a.shape[1])):
            slot = projection.factor(f"{layer.name}.{factor}", RANK, columns)
            matrix.append(dense_signs(slot.key, 0, RANK * columns, 64, loaded.device))  # type: ignore[attr-defined]
    expected = exact.sketch.double() @ torch.cat(matrix).double() / 8
    np.testing.assert_allclose(found.sketch, expected, atol=1e-5)


def test_dense_signs_are_fair_and_independent() -> None:
    signs = dense_signs(12345, 0, 2000, 96, torch.device("cpu"))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 4 / (2000 * 96) ** 0.5
    gram = (signs.T @ signs / 2000 - torch.eye(96)).abs()
    assert float(gram.max()) < 6 / 2000**0.5
    assert torch.equal(signs[500:510], dense_signs(12345, 500, 10, 96, torch.device("cpu")))
