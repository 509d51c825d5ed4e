"""How large a training is, from a model's configuration alone: an adapter's weights, activations, what fits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ntkcli.engine.features.extract import default_batch_tokens
from ntkcli.engine.models.adapters import linear_layers
from ntkcli.engine.models.devices import DTYPES, pick_device, pick_dtype
from ntkcli.engine.models.loading import LoadedModel, model_config
from ntkcli.identity import AdapterIdentity, ModelIdentity


@dataclass(frozen=True, slots=True)
class TrainingSize:
    """Weights of an adapter, padded tokens computed at a time, and bytes of a base weight and a token's activations.

    Activations: 10 hidden-sized and 4 MLP-sized tensors a layer, as `ntkcli.engine.features.extract` counts them;
    with gradient checkpointing those of one layer, and the input of each.
    """

    adapter_parameters: int
    batch_tokens: int
    weight_bytes: int
    token_bytes: int
    checkpointed_token_bytes: int


def training_size(
    identity: ModelIdentity,
    *,
    rank: int,
    target_modules: str,
    dtype: str,
    device: str,
    init: AdapterIdentity | None = None,
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
    config = model.config.get_text_config()
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    layer = 10 * config.hidden_size + 4 * inner
    return TrainingSize(
        adapter_parameters=_new_weights(model, rank, target_modules) if init is None else _kept_weights(init),
        batch_tokens=default_batch_tokens(LoadedModel(model, None, place, number), backward=True),
        weight_bytes=number.itemsize,
        token_bytes=config.num_hidden_layers * layer * number.itemsize,
        checkpointed_token_bytes=(config.num_hidden_layers * config.hidden_size + layer) * number.itemsize,
    )


def _new_weights(model: nn.Module, rank: int, target_modules: str) -> int:
    return sum(rank * _in_and_out(layer) for layer in linear_layers(model, target_modules).values())


def _kept_weights(adapter: AdapterIdentity) -> int:
    """Numbers in an adapter's file, by its header."""
    with safe_open(adapter.folder / "adapter_model.safetensors", framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # no dict


def _in_and_out(layer: nn.Module) -> int:
    weight: Tensor = layer.weight  # type: ignore[assignment]  # a parameter, by linear_layers
    return weight.shape[0] + weight.shape[1]
