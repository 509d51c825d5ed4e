"""Tiny random models of every architecture, and the loop that their gradients are held against: one row, autograd."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from ntkcli.data.encoding import Encoded
from ntkcli.engine.features.trace_kernels import AnyProbe, KernelEngine, TraceProbes, read_head
from ntkcli.engine.gradients.adam import FactorMoments
from ntkcli.engine.gradients.probes import LogitProbe, LossProbe
from ntkcli.engine.gradients.projections import make_projection
from ntkcli.engine.gradients.row_gradients import Features, GradientEngine
from ntkcli.engine.hashing import hash_u64
from ntkcli.engine.models.adapters import AdaptedLayer, fresh_adapter
from ntkcli.engine.models.loading import LoadedModel, head_form
from tests.conftest import make_tokenizer
from tests.engine import zoo

RANK, DIM, SEED = 3, 256, 5


def load(name: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """As `load_model` does, without a folder."""
    model = zoo.build(name).to(dtype)
    head_form(model)
    return LoadedModel(model, make_tokenizer(), torch.device("cpu"), dtype)


def make_rows(lengths: list[int], seed: int = 0) -> list[Encoded]:
    """Rows with an answer and, where they are long enough, a last token that only closes the turn."""
    draw = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        supervised = np.zeros(length, dtype=bool)
        supervised[-max(1, length // 3) :] = True
        supervised[-1] = length < 6
        rows.append(Encoded(draw.integers(3, 97, length).astype(np.int32), supervised, truncated=False))
    return rows


def adapter_layers(model: Any, *, warm: bool, target_modules: str = "all-linear") -> list[AdaptedLayer]:
    """Layers as if a trained adapter had been merged: B not zero, s·BA in the weights."""
    layers = fresh_adapter(model, rank=RANK, target_modules=target_modules, seed=1)
    if not warm:
        return layers
    torch.manual_seed(7)
    warmed = []
    for layer in layers:
        b = 0.1 * torch.randn(layer.shape[0], RANK, dtype=layer.weight.dtype)
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
    model = zoo.build_double(name)
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


def peft_gradients(model: Any, rows: list[Encoded], kind: str = "loss") -> list[dict[str, Any]]:
    """Of peft's model with respect to A and B alone, by autograd, row by row: layer → both as (rank, columns).

    Of the mean cross-entropy of the answer (`loss`), or of its mean sum of logits (`sum`).
    """
    named = {n: p for n, p in model.named_parameters() if "lora_A" in n or ("lora_B" in n and n.endswith("weight"))}
    for parameter in named.values():
        parameter.requires_grad_(True)
    found = []
    for row in rows:
        ids, answer = torch.tensor(row.ids.astype(np.int64)), torch.tensor(row.supervised[1:])
        logits = model(input_ids=ids[None]).logits[0][:-1][answer]
        if kind == "loss":
            value = torch.nn.functional.cross_entropy(logits, ids[1:][answer])
        else:
            value = logits.sum(dim=-1).mean()
        grads = dict(zip(named, torch.autograd.grad(value, list(named.values())), strict=True))
        layers = [n.removesuffix(".lora_A.default.weight") for n in grads if "lora_A" in n]
        found.append(
            {
                layer.removeprefix("base_model.model."): (
                    grads[f"{layer}.lora_A.default.weight"].numpy(),
                    grads[f"{layer}.lora_B.default.weight"].T.numpy(),
                )
                for layer in layers
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


def assert_equal(found: Features, expected: list[dict[str, Any]], *, tolerance: float = 1.0) -> None:
    """The engine's norms and sketches are the loop's, within float32's digits times `tolerance`."""
    for i, gradients in enumerate(expected):
        norm = norm_of(gradients)
        assert norm > 0
        np.testing.assert_allclose(float(found.norm[i]), norm, rtol=2e-4 * tolerance)
        np.testing.assert_allclose(found.sketch[i].numpy(), dense_sketch(gradients) / norm, atol=2e-5 * tolerance)


def trace_kernels(
    loaded: LoadedModel, layers: list[AdaptedLayer], rows: Sequence[Encoded], others: Sequence[AnyProbe] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Exact: the trace, the centred trace, the kernel of the probe `sum`; and that of every other probe given."""
    head = read_head(loaded)
    probes = TraceProbes(loaded, head, [LogitProbe(loaded.model, "sum"), *others])
    found = list(KernelEngine(loaded, layers).kernels(rows, probes.some(0, len(probes))))
    columns = len(probes) - 1 - len(others)
    centred, total = np.sum(found[:columns], axis=0), found[columns]
    return centred + total / head.outputs, centred, total, found[columns + 1 :]


def save_moments(layers: Sequence[AdaptedLayer], folder: Path) -> tuple[dict[str, torch.Tensor], Path]:
    """Adam's moments of all factors (beta1 0.8, beta2 0.95, eps 0.001) as a run keeps them, and their file."""
    draw = torch.Generator().manual_seed(3)
    held = {}
    for layer in layers:
        for factor, like in (("lora_A", layer.a), ("lora_B", layer.b)):
            assert like is not None
            held[f"{layer.name}.{factor}.exp_avg"] = 0.1 * torch.randn(like.shape, generator=draw)
            held[f"{layer.name}.{factor}.exp_avg_sq"] = 0.1 * torch.rand(like.shape, generator=draw)
    said = {"step": "9", "beta1": "0.8", "beta2": "0.95", "eps": "0.001", "mean_learning_rate": "0.1"}
    save_file(held, folder / "optimizer.safetensors", metadata=said)
    return held, folder / "optimizer.safetensors"
