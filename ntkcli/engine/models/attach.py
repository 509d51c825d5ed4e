"""Put a PEFT adapter beside a model, or fold it in where that loses nothing; refuse by name what can't be right.

The reference is always peft's own model with the adapter beside it. Knows nothing of features.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ntkcli.engine.models.beside import is_half, is_shared, is_vanilla, own_part, round_once
from ntkcli.errors import SpecError, UsageError
from ntkcli.identity import AdapterIdentity

_LOST_BASES = ("lora_ga", "corda")
"""Initial values that change the base model's weights by data that the adapter's files don't hold."""
_OUTSIDE = {
    "alora_invocation_tokens": "works from certain tokens on (aLoRA)",
    "arrow_config": "chooses between other adapters (Arrow)",
}
"""LoRA's options whose effect is not in the layers alone, in adapter_config.json."""
_SEED = 0
"""For peft's random approximations (`pissa_niter_16`): the same base weights at every load."""


@dataclass(frozen=True, slots=True)
class Factors:
    """A LoRA adapter on one linear layer: y = W x + s·(B A x + shift). `merged`: it is in the layer's weight."""

    name: str
    module: nn.Module
    a: Tensor
    b: Tensor
    shift: Tensor | None
    scale: float
    merged: bool


def attach_adapter(model: Any, adapter: AdapterIdentity, *, trainable: bool = False) -> Any:
    """The model with a PEFT adapter beside it, in evaluation mode; refuses one that doesn't fit or isn't whole.

    Raises:
        SpecError: its weights don't fit the model, are not all there, or not finite.
        UsageError: its effect can't be had from its files or from its layers.
    """
    from peft import PeftModel

    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    _refuse_unusable(adapter, on_cuda=bool(devices))
    with warnings.catch_warnings(record=True) as caught, torch.random.fork_rng(sorted(devices)):
        warnings.simplefilter("always")
        torch.manual_seed(_SEED)
        try:
            attached = PeftModel.from_pretrained(model, str(adapter.folder), is_trainable=trainable)
            refuse_not_finite(adapter)
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
    round_once(attached)
    return attached.eval()


def refuse_not_finite(adapter: AdapterIdentity) -> None:
    """SpecError, naming the weight, for an adapter with values that are not finite: no row is to blame for them."""
    from safetensors import safe_open

    with safe_open(adapter.folder / "adapter_model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # no dict
            if bad := int((~torch.isfinite(weight := file.get_tensor(name))).sum()):
                raise SpecError(
                    f"The adapter {adapter.folder} has weights that are not finite: {bad:,} of {weight.numel():,} in "
                    f"{name}.",
                    "Give another adapter, or train this one again with a lower --lr.",
                )


def fold(model: nn.Module) -> list[Factors]:
    """Take peft's LoRA layers off the linear layers of a model it was attached to; the factors of each.

    Merged into float32 weights that nothing else uses. Where peft stands on something else (an embedding, a module that
    was trained whole, a quantised layer's own kind of update), it stays and computes. A layer that is not merged is
    bare afterwards: the caller runs its factors beside it.
    """
    used = use_counts(model)
    found = []
    for name, layer in _lora_layers(model):
        base = layer.get_base_layer()
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        shift = layer.lora_B["default"].bias
        shift = shift.detach().float().clone() if shift is not None and bool(shift.any()) else None
        alone = is_vanilla(layer) and _takes_updates(base.weight) and used[base.weight.data_ptr()] == 1
        merged = alone and (shift is None or base.bias is not None)
        factors = (a.detach().float().clone(), b.detach().float().clone(), shift)
        if merged:
            layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, base)
        found.append(Factors(name, base, *factors, float(layer.scaling["default"]), merged))
    _write_tokens(model)
    return found


def merge_floats(model: nn.Module) -> list[Factors]:
    """Merge peft's LoRA layers into float32 weights that nothing else uses, in place; all else stays as it is.

    Returns the factors of those that were merged.
    """
    used, found = use_counts(model), []
    for name, layer in _lora_layers(model):
        base = layer.get_base_layer()
        if not is_vanilla(layer) or not _takes_updates(base.weight) or used[base.weight.data_ptr()] > 1:
            continue
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        shift = layer.lora_B["default"].bias
        if shift is None or base.bias is not None:
            layer.merge()
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, base)
            scale = float(layer.scaling["default"])
            found.append(Factors(name, base, a.detach(), b.detach(), shift, scale, merged=True))
    _write_tokens(model)
    return found


def refuse_uncovered(attached: Any, adapter: AdapterIdentity) -> None:
    """UsageError unless all that the adapter trains by factors is plain LoRA on linear layers."""
    from peft.tuners.lora import Embedding, LoraLayer, ParamWrapper

    config = attached.peft_config["default"]
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    reason = "" if kind == "LORA" else f"is a {kind} adapter"
    for name, layer in attached.base_model.model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        variant = layer.lora_variant.get("default")
        if isinstance(layer, ParamWrapper):
            reason = f"adapts parameters ({name}.{layer.parameter_name}), not layers"
        elif variant is not None:
            reason = (
                f"is {type(variant).__name__.removesuffix('LinearVariant')}, whose layers are not linear in A and B"
            )
        elif isinstance(layer, Embedding):
            reason = f"sits on the embedding {name}"
        elif not len(layer.lora_A):
            reason = f"sits on {name}, a {type(layer.get_base_layer()).__name__}"
        if reason:
            break
    if reason:
        raise UsageError(
            f"The adapter {adapter.folder} {reason}; gradients with respect to it are not supported.",
            "Give a LoRA adapter on linear layers, or --kind embed.",
        )


def _lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """peft's layers with LoRA factors on a linear layer, quantised ones too."""
    from peft.tuners.lora import LoraLayer, ParamWrapper

    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and not isinstance(layer, ParamWrapper) and "default" in layer.lora_A
    ]


def _takes_updates(weight: Tensor) -> bool:
    """Whether an update can be merged into a weight: not of half precision, nor shared between processes."""
    return not is_half(weight) and not is_shared(weight)


def use_counts(model: nn.Module) -> dict[int, int]:
    """By the place of a weight in memory: how many modules have it (tied embeddings, repeated layers)."""
    counts: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if is_shared(parameter):
                continue
            counts[parameter.data_ptr()] = counts.get(parameter.data_ptr(), 0) + 1
    return counts


def _write_tokens(model: nn.Module) -> None:
    """Write single embeddings that were trained (trainable_token_indices) into the table: they replace its rows."""
    from peft.utils.other import TrainableTokensWrapper

    for name, wrapper in list(model.named_modules()):
        if isinstance(wrapper, TrainableTokensWrapper):
            parent, _, last = name.rpartition(".")
            bare = wrapper.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
            setattr(model.get_submodule(parent), last, bare)


def _refuse_unusable(adapter: AdapterIdentity, *, on_cuda: bool) -> None:
    """UsageError for an adapter whose model can't be had by attaching it."""
    path, where = adapter.folder / "adapter_config.json", f"The adapter {adapter.folder}"
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}.", "Copy the adapter again.") from error
    for option, what in _OUTSIDE.items():
        if values.get(option):
            raise UsageError(f"{where} {what}, by its {option}; that is not supported.", "Give a plain LoRA adapter.")
    initial = str(values.get("init_lora_weights", "")).lower()
    if initial == "loftq" and not on_cuda:
        raise UsageError(
            f"{where} began from loftq, for which peft quantises the base model's weights again at every load, on CUDA "
            "alone.",
            "Give --device cuda.",
        )
    if initial.startswith(_LOST_BASES):
        raise UsageError(
            f"{where} began from {initial}, which changes the base model's weights in a way that its files don't hold.",
            "Save it by peft's save_pretrained(..., path_initial_model_for_weight_conversion=...). If --model is the "
            'changed base itself, write "init_lora_weights": true in its adapter_config.json.',
        )
    _refuse_outside_the_layers(adapter, str(values.get("peft_type")))


def _refuse_outside_the_layers(adapter: AdapterIdentity, kind: str) -> None:
    from peft import PeftConfig

    try:
        known = PeftConfig.from_pretrained(str(adapter.folder))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{adapter.folder / 'adapter_config.json'}: peft can't read it: {str(error).splitlines()[0][:200]}",
            "Give an adapter that peft's save_pretrained wrote.",
        ) from error
    if known.is_prompt_learning or kind == "XLORA":
        raise UsageError(
            f"The adapter {adapter.folder} is a {kind} adapter: its effect is not in the model's layers. It is not "
            "supported.",
            "Give a LoRA adapter.",
        )


def take_off(model: nn.Module) -> None:
    """Take all of peft's layers off a model that it was put into, and freeze it: the base layers compute alone.

    As `PeftModel.unload`, for callers who hold the base model only (after a training, or one that broke off). Weights
    that were trained whole, or changed by the adapter's initial values, stay changed: compare `weight_hashes`.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
            inner = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer.original_module
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, inner)
    if hasattr(model, "peft_config"):
        del model.peft_config  # else peft warns of a second adapter
    model.requires_grad_(False)
    model.eval()


def weight_hashes(model: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype, int]]:
    """Shape, dtype and hash of every weight by its name, or of its share; 135M float32 parameters take 0.1 s."""
    weights = {name: own_part(x).detach() for name, x in model.state_dict().items() if isinstance(x, Tensor)}
    hashes = torch.stack([torch.hash_tensor(x).view(torch.int64) for x in weights.values()]).tolist()
    return {name: (x.shape, x.dtype, found) for (name, x), found in zip(weights.items(), hashes, strict=True)}


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
