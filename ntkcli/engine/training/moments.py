"""The optimiser's moments of an adapter as a safetensors file: what LESS's Adam direction m/√(v+ε) is made of.

Keys are `<module path>.lora_A.exp_avg`, `.lora_A.exp_avg_sq` and the same for lora_B, float32, of the factor's shape;
the path is that of `ntkcli.engine.models.adapters.AdaptedLayer`. Metadata: docs/store-format.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from store import atomic

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of Adam: the running means of the gradient and of its square."""
_PEFT_PREFIX = "base_model.model."


def read_moments(model: Any, optimizer: Any) -> dict[str, Tensor]:
    """Every moment of every LoRA factor of a peft model, by key; on the CPU.

    `optimizer` is an Adam of torch. Before its first step there are none.
    """
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        path, _, factor = (
            name.removeprefix(_PEFT_PREFIX).removesuffix(".weight").removesuffix(".default").rpartition(".")
        )
        if not parameter.requires_grad or factor not in ("lora_A", "lora_B"):
            continue
        state = optimizer.state[parameter]
        found |= {
            f"{path}.{factor}.{moment}": state[moment].detach().float().cpu() for moment in MOMENTS if moment in state
        }
    return found


def write_moments(path: Path, model: Any, optimizer: Any, *, step: int, mean_learning_rate: float) -> None:
    """Put the moments at `path`, whole and durable. `mean_learning_rate` is that of the `step` steps taken."""
    group = optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    metadata = {
        "step": str(step),
        "beta1": repr(float(beta1)),
        "beta2": repr(float(beta2)),
        "eps": repr(float(group["eps"])),
        "mean_learning_rate": repr(mean_learning_rate),
    }
    tensors = {key: tensor.contiguous() for key, tensor in read_moments(model, optimizer).items()}
    atomic.write_bytes(path, *_sorted(safetensors.torch.save(tensors, metadata=metadata)))


def _sorted(data: bytes) -> tuple[bytes, memoryview]:
    """The file with its header's keys sorted, so that bytes repeat: safetensors writes metadata in any order."""
    stop = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:stop]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, memoryview(data)[stop:]
