"""Environment variables by which libraries change a computation: out of sight while ours runs. Must not know models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

CHANGING: Final = (
    "ACCELERATE_",  # precision, gradient accumulation and clipping, compilation, FSDP, DeepSpeed, device
    "FSDP_",
    "MEGATRON_LM_",
    "PARALLELISM_CONFIG_",
    "XLA_USE_BF16",
    "XLA_DOWNCAST_BF16",
    "NVIDIA_TF32_OVERRIDE",  # read by cuBLAS when it is first used
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""How the names begin of what accelerate, transformers, torch and CUDA read and what may change a value. The number
format and the steps are in a run's spec; `accelerate launch` or a profile of the machine must not set others."""


@contextmanager
def without_settings() -> Iterator[None]:
    """The process's environment without these variables; they are put back, and what was set meanwhile is dropped."""
    hidden = _found()
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        for name in _found():
            del os.environ[name]
        os.environ.update(hidden)


def _found() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(CHANGING)}
