"""Find on a CPU what would make the host wait on CUDA: operations whose result, or its shape, the host must know."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING = (
    "_local_scalar_dense",  # .item(), bool(tensor), float(tensor), .tolist() of one number, `if tensor:`
    "nonzero",
    "masked_select",
    "equal",
    "bincount",
    "_unique",
    "unique_",
    "repeat_interleave.Tensor",
    "_linalg_eigh",
    "_linalg_svd",
)


class NoWaiting(TorchDispatchMode):
    """Within, an operation that waits on CUDA is an error that names the line it came from."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        masked = name.startswith("index") and any(
            isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in _tensors(args[1:])
        )
        if masked or name.startswith(_WAITING):
            raise AssertionError(f"{name} waits for the device, at {_line()}")
        return func(*args, **(kwargs or {}))


def _tensors(values: Any) -> list[Any]:
    return [one for value in values for one in (_tensors(value) if isinstance(value, list | tuple) else [value])]


def _line() -> str:
    ours = [
        one for one in traceback.extract_stack() if "/torch/" not in one.filename and "waits.py" not in one.filename
    ]
    return f"{ours[-1].filename}:{ours[-1].lineno}"
