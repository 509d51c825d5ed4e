"""How large a training is, from a model's configuration alone: an adapter's weights, activations, what fits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ntkcli.engine.models.adapters import linear_layers
from ntkcli.engine.models.devices import DTYPES, pick_device, pick_dtype
from ntkcli.engine.models.footprint import counted_tokens, trained_bytes, training_footprint
from ntkcli.engine.models.loading import LoadedModel, model_config
from ntkcli.identity import AdapterIdentity, ModelIdentity


@dataclass(frozen=True, slots=True)
class TrainingSize:
    """Weights of an adapter, padded tokens computed at a time, and bytes of a base weight and a token's activations.

    As `ntkcli.engine.models.footprint` counts them, with gradient checkpointing if that is asked for.
    """

    adapter_parameters: int
    batch_tokens: int
    weight_bytes: int
    token_bytes: int


def training_size(
    identity: ModelIdentity,
    *,
    rank: int,
    target_modules: str,
    dtype: str,
    device: str,
    init: AdapterIdentity | None = None,
    checkpointed: bool = False,
) -> TrainingSize:
    """The size of a training; no weight is read. An adapter to go on from (`init`) is as large as its file says.

    Raises:
        UsageError: `target_modules` names layers that the model lacks.
    """
    from transformers import AutoModelForCausalLM

    place = pick_device(device)
    number = DTYPES[pick_dtype(dtype, place)]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(identity))
    adapted = adapter_weights(model, rank=rank, target_modules=target_modules, init=init)
    weights = sum(weight.numel() for weight in model.parameters()) * number.itemsize  # on the device by then
    footprint = training_footprint(model.config, number, checkpointed=checkpointed)
    return TrainingSize(
        adapter_parameters=adapted,
        batch_tokens=counted_tokens(footprint, place, reserved=weights + trained_bytes(adapted)),
        weight_bytes=number.itemsize,
        token_bytes=footprint.token,
    )


def pick_batch_tokens(
    loaded: LoadedModel,
    *,
    rank: int,
    target_modules: str,
    init: AdapterIdentity | None = None,
    checkpointed: bool = False,
) -> int:
    """Padded tokens of a forward and backward that fit beside the loaded model and the adapter to be trained on it."""
    footprint = training_footprint(loaded.model.config, loaded.dtype, checkpointed=checkpointed)
    if loaded.device.type != "cuda":
        return counted_tokens(footprint, loaded.device)
    adapted = adapter_weights(loaded.model, rank=rank, target_modules=target_modules, init=init)
    return counted_tokens(footprint, loaded.device, reserved=trained_bytes(adapted))


def adapter_weights(model: nn.Module, *, rank: int, target_modules: str, init: AdapterIdentity | None) -> int:
    """Weights of an adapter: a new one, or as many as the file of the one to go on from has."""
    return _new_weights(model, rank, target_modules) if init is None else _kept_weights(init)


def _new_weights(model: nn.Module, rank: int, target_modules: str) -> int:
    return sum(rank * _in_and_out(layer) for layer in linear_layers(model, target_modules).values())


def _kept_weights(adapter: AdapterIdentity) -> int:
    """Numbers in an adapter's file, by its header."""
    with safe_open(adapter.folder / "adapter_model.safetensors", framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # no dict


def _in_and_out(layer: nn.Module) -> int:
    weight: Tensor = layer.weight  # type: ignore[assignment]  # a parameter, by linear_layers
    return weight.shape[0] + weight.shape[1]
