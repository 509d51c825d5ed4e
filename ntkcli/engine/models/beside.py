"""Low-rank updates beside a weight: y = W x + s·B A x, rounded once.

In half precision s·BA must not be merged into W: a change below |W|/256 (bfloat16) or |W|/2048 (float16) vanishes. Nor
may s·B A x be added to a product that is rounded already, where it vanishes in the same way: of changes of 1e-4·|W| 7%
are left in bfloat16 (tests/engine/models/test_half_precision.py). So the update goes into the product's own sums.

Legend: x (..., i), W (o, i), A (r, i), B (o, r), s the scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def product_with(delta: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + delta (..., o), summed in float32 and rounded once; then the bias."""
    flat = torch.addmm(delta.reshape(-1, delta.shape[-1]), x.reshape(-1, x.shape[-1]), weight.T)
    y = flat.view(delta.shape)
    return y if bias is None else y + bias


def is_conv1d(module: nn.Module) -> bool:
    """Whether the layer is GPT-2's, whose weight is (in, out)."""
    return type(module).__name__ == "Conv1D"


def is_plain(module: nn.Module) -> bool:
    """Whether the layer's forward is x W^T + bias with W its own parameter."""
    return is_conv1d(module) or type(module).forward is nn.Linear.forward


def weight_of(module: Any) -> Tensor:
    """The weight of a plain layer as (out, in)."""
    weight: Tensor = module.weight
    return weight.T if is_conv1d(module) else weight


def is_shared(weight: Tensor) -> bool:
    """Whether processes hold a share of the weight each (`ntkcli.engine.models.sharding`)."""
    return hasattr(weight, "to_local")


def own_part(weight: Tensor) -> Tensor:
    """What this process holds of a weight: the weight itself, if it is not shared."""
    local: Tensor = weight.to_local() if is_shared(weight) else weight  # type: ignore[attr-defined]  # DTensor's
    return local


def is_half(weight: Tensor) -> bool:
    """Whether numbers are kept in bfloat16 or float16."""
    return weight.dtype in (torch.bfloat16, torch.float16)


def round_once(model: nn.Module) -> None:
    """Let peft's LoRA layers on half-precision weights round once; their own forward rounds twice."""
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer) and is_vanilla(layer) and is_half(layer.get_base_layer().weight):
            layer.forward = _forward_of(layer, layer.forward)


def is_vanilla(layer: Any) -> bool:
    """Whether peft's layer is a plain LoRA adapter on a plain linear layer."""
    base = layer.get_base_layer()
    return bool(len(layer.lora_A)) and is_plain(base) and base is layer.base_layer and not layer.lora_variant


def _forward_of(layer: Any, own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = [name for name in layer.active_adapters if name in layer.lora_A]
        if layer.disable_adapters or layer.merged or len(names) != 1:
            return own(x, *args, **kwargs)
        (name,), base = names, layer.base_layer
        weight, scale = weight_of(base), layer.scaling[name]
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        shift = layer.lora_B[name].bias
        x = x.to(weight.dtype)
        thin = nn.functional.linear(layer.lora_dropout[name](x), a.to(weight.dtype))
        delta = nn.functional.linear(thin, (scale * b).to(weight.dtype))
        if shift is not None:
            delta = delta + (scale * shift).to(weight.dtype)
        return product_with(delta, x, weight, base.bias)

    return forward
