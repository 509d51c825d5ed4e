"""Where to compute and in which numbers: the device and the dtype that `auto` and the options stand for."""

from __future__ import annotations

from typing import Any

import torch

from ntkcli.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device for `auto` (the first CUDA device, else the CPU), `cpu`, `cuda` or `cuda:i`.

    Raises:
        UsageError: it is another kind of device, or CUDA was asked for and isn't there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: no such device.", "Give auto, cpu, cuda or cuda:0.") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: only CPUs and CUDA devices are supported.", "Give --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UsageError(f"--device {name}: this machine shows {found} CUDA devices.", "Give --device cpu or auto.")
    return torch.device("cuda:0") if name == "cuda" else device


def pick_dtype(name: str, device: torch.device) -> str:
    """The name of the compute dtype for `auto`: bfloat16 where the CUDA device computes in it, else float32.

    Older devices emulate it, more slowly than float32.
    """
    if name != "auto":
        return name
    return "bfloat16" if device.type == "cuda" and _has_bfloat16(device) else "float32"


def _has_bfloat16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def train_on(arguments: Any, device: torch.device) -> None:
    """Let transformers' TrainingArguments, and accelerate behind them, use this device and no other.

    They take the first CUDA device, whatever the model lies on, and all of them through nn.DataParallel, which would
    change the batch size.
    """
    state = arguments.distributed_state
    if arguments.device != device and state is not None and state.num_processes == 1:
        state.device = device
        vars(arguments)["_setup_devices"] = device  # a cached property
        if device.type == "cuda":
            torch.cuda.set_device(device)
    arguments._n_gpu = min(1, arguments.n_gpu)
