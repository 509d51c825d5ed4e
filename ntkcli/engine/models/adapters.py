"""LoRA adapters as the engine sees them: a linear layer, its factors A and B, and weights with s·BA merged in.

Features are gradients with respect to A and B; what the model computes is the same whether s·BA is added to a float32
weight or run beside it, so it is merged and forward and backward pay nothing for it. A weight of half precision or
quantised would swallow it: there it runs beside.

Legend: A (r, in), B (out, r), s = alpha/r (or alpha/sqrt(r)): y = W x + s·B A x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from ntkcli.engine.hashing import hash_u64
from ntkcli.engine.models.attach import attach_adapter, fold, merge_floats, refuse_uncovered
from ntkcli.engine.models.beside import is_conv1d, is_plain, is_shared, product_with, weight_of
from ntkcli.engine.models.loading import LoadedModel, decoder_of, head_of
from ntkcli.errors import UsageError
from ntkcli.identity import AdapterIdentity, ModelIdentity, refuse_other_base


@dataclass(frozen=True, slots=True)
class AdaptedLayer:
    """One linear layer with a LoRA adapter: its module path, the layer and the adapter's factors.

    `b` is None where B = 0: the gradient of A is then zero exactly, and nobody need compute it. `merged`: s·BA is in
    the layer's weight; else s·(B A x + shift) is added beside it.
    """

    name: str
    module: nn.Module
    a: Tensor
    b: Tensor | None
    scale: float
    merged: bool = True
    shift: Tensor | None = None

    @property
    def weight(self) -> Tensor | None:
        """The layer's weight as (out, in), whatever the layer calls its own order (GPT-2's is transposed).

        None where the layer's forward is its own (a quantised one): only the layer knows what it multiplies by.
        """
        return weight_of(self.module) if is_plain(self.module) else None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return _shape(self.module)

    def find_weight(self) -> Callable[[], tuple[Tensor, Tensor | None]]:
        """What finds the weight and bias as they are when it is called; it does not hold the layer."""
        module = ref(self.module)

        def find() -> tuple[Tensor, Tensor | None]:
            found = module()
            assert found is not None  # noqa: S101  # its forward is running
            return weight_of(found), getattr(found, "bias", None)

        return find


def linear_layers(model: Any, target_modules: str) -> dict[str, nn.Module]:
    """The layers that an adapter may sit on: module path → layer, in the model's order.

    `target_modules` is `all-linear` (every linear layer of the decoder, as peft has it: not the head) or names,
    comma-separated (`q_proj,v_proj`), each the last part of a module path.

    Raises:
        UsageError: a name matches no layer; the message lists those there are.
    """
    inside = {id(module) for module in decoder_of(model).modules()}
    found = {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or is_conv1d(module)) and id(module) in inside
    }
    if target_modules == "all-linear":
        _refuse_fused_experts(model)
        return found
    wanted = {name.strip() for name in target_modules.split(",") if name.strip()}
    kept = {name: module for name, module in found.items() if name.rpartition(".")[2] in wanted}
    missing = wanted - {name.rpartition(".")[2] for name in kept}
    if missing or not kept:
        have = ", ".join(sorted({name.rpartition(".")[2] for name in found}))
        raise UsageError(
            f"--target-modules {target_modules}: the model has no linear layer {', '.join(sorted(missing))}.",
            f"Give all-linear, or some of: {have}.",
        )
    return kept


def fresh_adapter(model: Any, *, rank: int, target_modules: str, seed: int) -> list[AdaptedLayer]:
    """A LoRA adapter at its initial state: A uniform in ±1/sqrt(in) (peft's Kaiming default), B = 0, s = 1.

    A is a pure function of (seed, layer name, coordinate), the same on every device.
    """
    layers = []
    for name, module in linear_layers(model, target_modules).items():
        columns = _shape(module)[1]
        draws = torch.from_numpy((hash_u64(seed, f"{name}|lora_A", rank * columns) >> 11).astype("float64"))
        uniform = (draws / 2.0**52 - 1.0).float().reshape(rank, columns)  # [-1, 1)
        a = (uniform / math.sqrt(columns)).to(next(module.parameters()).device)
        layers.append(AdaptedLayer(name, module, a, None, 1.0))
    return layers


def only_layers(layers: list[AdaptedLayer], wanted: str) -> list[AdaptedLayer]:
    """The adapted layers in the decoder's blocks that `wanted` names: `all`, `last:N`, or numbers (`0,20-29`).

    The backward stops at the lowest of them: the last quarter of the blocks costs little more than a forward. The
    others get no gradients and go on computing with their updates: those that are not merged run beside from here on.

    Raises:
        UsageError: `wanted` is none of these, or names no block.
    """
    if wanted == "all":
        return layers
    block_of = [_block_number(layer.name) for layer in layers]
    count = 1 + max((number for number in block_of if number is not None), default=-1)
    try:
        if wanted.startswith("last:"):
            chosen = set(range(count - int(wanted[5:]), count))
        else:
            ends = [part.split("-") for part in wanted.split(",")]
            chosen = {number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)}
    except ValueError:
        chosen = set()
    kept = [layer for layer, number in zip(layers, block_of, strict=True) if number in chosen]
    if not kept or not chosen <= set(range(count)):
        raise UsageError(
            f"--layers {wanted}: the model has blocks 0 to {count - 1}.", "Give all, last:N, or numbers like 0,20-29."
        )
    for layer, number in zip(layers, block_of, strict=True):
        if number not in chosen:
            _run_beside(layer)
    return kept


def _run_beside(layer: AdaptedLayer) -> None:
    """Let a layer whose update is not in its weight compute with it, rounded once where that can be."""
    if layer.merged or layer.b is None:
        return
    linear, weight, bias = nn.functional.linear, layer.weight, getattr(layer.module, "bias", None)
    own: Any = layer.module.forward if weight is None else None  # else the module would hold itself
    find = layer.find_weight() if weight is not None and is_shared(weight) else lambda: (weight, bias)
    a, b, shift = layer.a, layer.scale * layer.b, None if layer.shift is None else layer.scale * layer.shift

    def forward(x: Tensor) -> Tensor:
        delta = linear(linear(x, a.to(x.dtype)), b.to(x.dtype), None if shift is None else shift.to(x.dtype))
        now, shift_now = find()
        if now is not None:
            return product_with(delta, x, now, shift_now)
        found: Tensor = own(x) + delta
        return found

    layer.module.forward = forward


def _block_number(name: str) -> int | None:
    """The number in a module path (`model.layers.12.mlp.up_proj`), or None."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def load_adapter(loaded: LoadedModel, adapter: AdapterIdentity, model: ModelIdentity) -> list[AdaptedLayer]:
    """Make the model compute with a PEFT LoRA adapter, in place, and return its layers and factors.

    Merged into float32 weights; beside all others (`AdaptedLayer.merged`), which the caller runs. Layers of an adapter
    that text never passes (of an image encoder) are left out, their gradients are zero.

    Raises:
        SpecError: the adapter was made for another base model (by the digest that `ntksel finetune` left, by its
            shapes, or because its weights are not all there).
        UsageError: it is not plain LoRA on linear layers (`attach.refuse_uncovered`).
    """
    refuse_other_base(adapter, model)
    attached = attach_adapter(loaded.model, adapter)
    refuse_uncovered(attached, adapter)
    bare = attached.base_model.model
    factors = fold(bare)
    bare.requires_grad_(False)
    seen = {id(module) for module in (*decoder_of(bare).modules(), head_of(bare))}
    layers = []
    for one in factors:
        b = one.b if bool(one.b.any()) or one.shift is not None else None
        if id(one.module) in seen:
            layers.append(AdaptedLayer(one.name, one.module, one.a, b, one.scale, merged=one.merged, shift=one.shift))
    if not layers:
        raise UsageError(f"The adapter {adapter.folder} has no LoRA on a linear layer.", "Give a LoRA adapter.")
    return layers


def apply_adapter(loaded: LoadedModel, adapter: AdapterIdentity, model: ModelIdentity) -> list[AdaptedLayer]:
    """Make the model compute with an adapter of any kind, in place. Refuses one of another base model, or not whole.

    Returns the layers whose weights it was merged into.
    """
    refuse_other_base(adapter, model)
    merged = merge_floats(attach_adapter(loaded.model, adapter).base_model.model)
    return [AdaptedLayer(one.name, one.module, one.a, one.b, one.scale, shift=one.shift) for one in merged]


def check_decoder_holds(layers: list[AdaptedLayer], model: Any) -> None:
    """Raise UsageError if an adapted layer lies outside the decoder, where the engine would not see it."""
    inside = {id(module) for module in decoder_of(model).modules()}
    for layer in layers:
        if id(layer.module) not in inside:
            raise UsageError(
                f"The adapter sits on {layer.name}, outside of the decoder, where gradients are not supported.",
                "Give an adapter on the decoder's layers alone, or --kind embed.",
            )


def has_experts(model: Any) -> bool:
    """Whether the model is a mixture of experts, by the names of its modules' classes."""
    return any(word in type(module).__name__.lower() for module in model.modules() for word in ("expert", "moe"))


def _shape(module: nn.Module) -> tuple[int, int]:
    """(out, in); a quantised layer's weight is packed and does not say."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    columns_in, columns_out = module.weight.shape  # type: ignore[misc]  # Conv1D
    return columns_out, columns_in


def _refuse_fused_experts(model: Any) -> None:
    for name, module in model.named_modules():
        weights = [p for p in module.parameters(recurse=False) if p.dim() == 3]
        if weights and "expert" in type(module).__name__.lower():
            raise UsageError(
                f"{name} keeps its experts in one {type(module).__name__} tensor; adapters there are not supported.",
                "Give --target-modules q_proj,k_proj,v_proj,o_proj to adapt the attention alone.",
            )
