"""What a figure was measured on: printed by every benchmark."""

from __future__ import annotations

import ctypes
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def describe() -> str:
    """One line: processor or GPU, threads, versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    place = f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        place = f"{torch.cuda.get_device_name()}, {place}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "zarr"))
    return f"{place}; Python {platform.python_version()}, {packages}"


class PeakMemory:
    """Measures the working memory of a block: the most it held beyond what stood when it began, in `gib`.

    On CUDA the device's; else the process's (Linux: its own high-water mark, which it may reset).
    """

    def __enter__(self) -> PeakMemory:
        """Begin."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._began = torch.cuda.memory_allocated()
        else:
            ctypes.CDLL(None).malloc_trim(0)  # gives freed memory back, which would hide what is taken again
            Path("/proc/self/clear_refs").write_text("5")
            self._began = _status_kib("VmRSS") * 1024
        self.gib = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status_kib("VmHWM") * 1024
        self.gib = (peak - self._began) / 2**30


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


_DENSE_BFLOAT16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Operations a second of the tensor cores without sparsity, from the makers' data sheets."""


def peak_operations(dtype: str) -> float:
    """The GPU's data-sheet peak for 16-bit products, or 0.0: no GPU, one that is not listed, or another dtype."""
    if not torch.cuda.is_available() or dtype not in ("bfloat16", "float16"):
        return 0.0
    name = torch.cuda.get_device_name()
    return next((peak for key, peak in _DENSE_BFLOAT16.items() if key in name), 0.0)
