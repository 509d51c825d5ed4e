"""One model out of a base model and an adapter: merged in float32 and rounded once. On the CPU.

Where the adapter is plain LoRA, weights without one keep the numbers of their files and each layer is merged by itself,
so that memory holds the model once, in the files' own format. Every other adapter is merged in float32 throughout.
Knows nothing of stores or commands.
"""

from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ntkcli.engine.models.attach import attach_adapter, use_counts
from ntkcli.engine.models.beside import is_vanilla
from ntkcli.engine.models.conversion import converted
from ntkcli.engine.models.devices import DTYPES
from ntkcli.engine.models.loading import load_model
from ntkcli.errors import NtkselError, UsageError
from ntkcli.identity import AdapterIdentity, ModelIdentity, refuse_other_base
from ntkcli.progress import counted_below

_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Number formats of safetensors files, as we call them."""


def model_folder(identity: ModelIdentity) -> Path:
    """Where the model is in transformers' own format: its folder, or that of the converted GGUF file."""
    return converted(identity) if identity.gguf else identity.folder


def stored_dtype(folder: Path) -> str:
    """The number format of a model's files: float32 unless all floats are bfloat16, or all float16."""
    found = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found |= {_STORED.get(file.get_slice(name).get_dtype(), "float32") for name in file.keys()}  # noqa: SIM118
    return found.pop() if len(found) == 1 else "float32"


def count_weights(folder: Path) -> int:
    """How many numbers a model's files hold, by their headers."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def merged_model(identity: ModelIdentity, adapter: AdapterIdentity, *, dtype: str) -> Any:
    """The model with the adapter in its weights, in `dtype`, without any layer of peft's.

    Raises:
        UsageError: the base model is quantised, or a layer of the adapter shares its weight with another module.
        SpecError: the adapter belongs to another base model. NtkselError: a weight does not fit into `dtype`.
    """
    refuse_other_base(adapter, identity)
    stored = stored_dtype(model_folder(identity))
    attached = _attached(identity, adapter, stored)
    plain = _is_plain(attached)
    if not plain and stored != "float32":
        del attached
        gc.collect()  # peft's layers hold their weights in circles, and the next model is as large
        attached = _attached(identity, adapter, "float32")
    _refuse_shared(attached, adapter)
    if plain:
        layers = _layers(attached)
        for layer in counted_below(layers, "merging", len(layers), unit="layers"):
            base = layer.get_base_layer()
            base.float()
            layer.merge()
            base.to(DTYPES[dtype])
    model = attached.unload() if plain else attached.merge_and_unload(safe_merge=True)
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.to(DTYPES[dtype])
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise NtkselError(
                f"{name} has values that are not finite in {dtype}.", "Give --dtype bfloat16 or --dtype float32."
            )
    return model


def _attached(identity: ModelIdentity, adapter: AdapterIdentity, dtype: str) -> Any:
    loaded = load_model(identity, dtype=dtype, device="cpu")
    if getattr(loaded.model.config, "quantization_config", None) is not None:
        raise UsageError(
            f"{identity.label}: its weights are quantised, and a merged layer would be rounded to them again.",
            "Use the adapter beside the quantised model, as it was trained.",
        )
    return attach_adapter(loaded.model, adapter)


def _layers(attached: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in attached.modules() if isinstance(module, BaseTunerLayer)]


def _is_plain(attached: Any) -> bool:
    """Whether all that the adapter changes is plain LoRA on linear layers."""
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    whole = any(isinstance(module, AuxiliaryTrainingWrapper) for module in attached.modules())
    started = getattr(attached.peft_config["default"], "init_lora_weights", True)
    changes_base = isinstance(started, str) and started.lower() not in ("gaussian", "eva", "orthogonal")
    return not whole and not changes_base and all(isinstance(x, LoraLayer) and is_vanilla(x) for x in _layers(attached))


def _refuse_shared(attached: nn.Module, adapter: AdapterIdentity) -> None:
    """UsageError if a layer's weight is another module's too: merged, it would change both."""
    used = use_counts(attached)
    for layer in _layers(attached):
        weight = getattr(layer.get_base_layer(), "weight", None)
        if isinstance(weight, torch.Tensor) and used[weight.data_ptr()] > 1:
            raise UsageError(
                f"The adapter {adapter.folder} sits on a layer whose weight is another's too (tied embeddings), so it "
                "can't be merged.",
                "Use the adapter beside the model, or train one without that layer (--target-modules all-linear).",
            )
