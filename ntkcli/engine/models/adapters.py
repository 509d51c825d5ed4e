"""LoRA adapters as the engine sees them: a linear layer, its factors A and B, and weights with s·BA merged in.

Features are gradients with respect to A and B; what the model computes is the same whether s·BA is
added to the weight or run beside it, so it is merged and forward and backward pay nothing for it. Into a quantised
weight it can't be merged without rounding: there it runs beside.

Legend: A (r, in), B (out, r), s = alpha/r (or alpha/sqrt(r)): y = W x + s·B A x.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ntkcli.engine.hashing import hash_u64
from ntkcli.engine.models.loading import LoadedModel, decoder_of, head_of
from ntkcli.errors import SpecError, UsageError
from ntkcli.identity import AdapterIdentity, ModelIdentity, refuse_other_base


@dataclass(frozen=True, slots=True)
class AdaptedLayer:
    """One linear layer with a LoRA adapter: its module path, the layer and the adapter's factors.

    `b` is None where B = 0: the gradient of A is then zero exactly, and nobody need compute it. `merged`: s·BA is in
    the layer's weight.
    """

    name: str
    module: nn.Module
    a: Tensor
    b: Tensor | None
    scale: float
    merged: bool = True

    @property
    def weight(self) -> Tensor | None:
        """The layer's weight as (out, in), whatever the layer calls its own order (GPT-2's is transposed).

        None where the layer's forward is its own (a quantised one): only the layer knows what it multiplies by.
        """
        if not _is_plain(self.module):
            return None
        weight: Tensor = self.module.weight  # type: ignore[assignment]  # a parameter, by linear_layers
        return weight.T if _is_conv1d(self.module) else weight

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return _shape(self.module)


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
        if (isinstance(module, nn.Linear) or _is_conv1d(module)) and id(module) in inside
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

    The backward stops at the lowest of them: the last quarter of the blocks costs little more than a forward.

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
    return kept


def _block_number(name: str) -> int | None:
    """The number in a module path (`model.layers.12.mlp.up_proj`), or None."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def load_adapter(loaded: LoadedModel, adapter: AdapterIdentity, model: ModelIdentity) -> list[AdaptedLayer]:
    """Merge a PEFT LoRA adapter into the model, in place, and return its layers and factors.

    Not merged into a model with quantised layers: the caller runs the factors beside. Layers of an adapter that text
    never passes (of an image encoder) are left out, their gradients are zero.

    Raises:
        SpecError: the adapter was made for another base model (by the digest that `ntksel finetune` left, by its
            shapes, or because its weights are not all there).
        UsageError: it is no plain LoRA adapter (DoRA, extra modules, another method).
    """
    refuse_other_base(adapter, model)
    peft_model = attach_adapter(loaded.model, adapter)
    raw = []
    for name, layer in peft_model.base_model.model.named_modules():
        if hasattr(layer, "lora_A") and "default" in layer.lora_A:
            if layer.use_dora.get("default"):
                raise UsageError(f"The adapter {adapter.folder} is a DoRA adapter, which is not linear in A and B.")
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            raw.append((name, a.detach().float().clone(), b.detach().float().clone(), layer.scaling["default"]))
    if not raw or any("lora_embedding" in name for name, *_ in raw):
        raise UsageError(f"The adapter {adapter.folder} has no LoRA on a linear layer.", "Give a LoRA adapter.")
    mergeable = can_merge(loaded.model)
    bare = peft_model.merge_and_unload() if mergeable else peft_model.unload()
    bare.requires_grad_(False)
    modules = dict(bare.named_modules())
    seen = {id(module) for module in (*decoder_of(bare).modules(), head_of(bare))}
    return [
        AdaptedLayer(name, modules[name], a, b if bool(b.any()) else None, float(scale), merged=mergeable)
        for name, a, b, scale in raw
        if id(modules[name]) in seen
    ]


def apply_adapter(loaded: LoadedModel, adapter: AdapterIdentity, model: ModelIdentity) -> None:
    """Make the model compute with the adapter, in place: merged, or beside quantised layers. Refuses as above."""
    if can_merge(loaded.model):
        load_adapter(loaded, adapter, model)
    else:
        refuse_other_base(adapter, model)
        attach_adapter(loaded.model, adapter).eval()


def can_merge(model: Any) -> bool:
    """Whether every linear layer of the decoder keeps its weight as plain floats."""
    return all(_is_plain(module) for module in decoder_of(model).modules() if isinstance(module, nn.Linear))


def attach_adapter(model: Any, adapter: AdapterIdentity, *, trainable: bool = False) -> Any:
    """The model with a PEFT adapter beside it (not merged); refuses one that doesn't fit or isn't whole."""
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            attached = PeftModel.from_pretrained(model, str(adapter.folder), is_trainable=trainable)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise SpecError(
                f"The adapter {adapter.folder} does not fit this base model: {reason}",
                "Give --model the model it was trained on.",
            ) from error
    adapter.watch.require_unchanged()
    missing = [str(w.message) for w in caught if "missing adapter keys" in str(w.message)]
    if missing:
        raise SpecError(
            f"The adapter {adapter.folder} lacks weights: {' '.join(missing[0].split())[:200]}",
            "Give --model the model it was trained on, or train the adapter again.",
        )
    _refuse_unused(attached, adapter)
    return attached


def _refuse_unused(attached: Any, adapter: AdapterIdentity) -> None:
    """SpecError if the file has LoRA weights of layers that the adapter's configuration leaves as they are.

    peft drops these without a word.
    """
    with safe_open(str(adapter.folder / "adapter_model.safetensors"), framework="np") as file:
        keys = [key for key in file.keys() if ".lora_" in key]  # noqa: SIM118  (not a dictionary)
    modules = dict(attached.named_modules())
    for key in keys:
        layer = modules.get(key.partition(".lora_")[0])
        if layer is not None and not hasattr(layer, "lora_A"):
            raise SpecError(
                f"The adapter {adapter.folder} has weights {key}, and its adapter_config.json leaves that layer out.",
                "Download adapter_config.json and adapter_model.safetensors again, both of one adapter.",
            )


def check_decoder_holds(layers: list[AdaptedLayer], model: Any) -> None:
    """Raise UsageError if an adapted layer lies outside the decoder, where the engine would not see it."""
    inside = {id(module) for module in decoder_of(model).modules()}
    for layer in layers:
        if id(layer.module) not in inside:
            raise UsageError(f"The adapter sits on {layer.name}, outside of the decoder; features can't cover it.")


def has_experts(model: Any) -> bool:
    """Whether the model is a mixture of experts, by the names of its modules' classes."""
    return any(word in type(module).__name__.lower() for module in model.modules() for word in ("expert", "moe"))


def _is_plain(module: nn.Module) -> bool:
    """Whether the layer's forward is x W^T + bias with W its own parameter."""
    return _is_conv1d(module) or type(module).forward is nn.Linear.forward


def _shape(module: nn.Module) -> tuple[int, int]:
    """(out, in); a quantised layer's weight is packed and does not say."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    columns_in, columns_out = module.weight.shape  # type: ignore[misc]  # Conv1D
    return columns_out, columns_in


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


def _refuse_fused_experts(model: Any) -> None:
    for name, module in model.named_modules():
        weights = [p for p in module.parameters(recurse=False) if p.dim() == 3]
        if weights and "expert" in type(module).__name__.lower():
            raise UsageError(
                f"{name} keeps its experts in one {type(module).__name__} tensor; adapters there are not supported.",
                "Give --target-modules q_proj,k_proj,v_proj,o_proj to adapt the attention alone.",
            )
