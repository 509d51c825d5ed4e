"""What a figure was measured on: printed by every benchmark."""

from __future__ import annotations

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
