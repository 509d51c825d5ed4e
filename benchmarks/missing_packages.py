#!/usr/bin/env python
"""What benchmarks/gpu.sh needs beyond torch and transformers, and how pip leaves alone what is there.

python benchmarks/missing_packages.py FILE        prints the missing ones; FILE: constraints, installed versions first
python benchmarks/missing_packages.py --check cuda|cpu    fails with a sentence where torch or CUDA are missing
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

NEEDED = {
    "accelerate": "accelerate",
    "google_crc32c": "google-crc32c",
    "hypothesis": "hypothesis",
    "numcodecs": "numcodecs",
    "peft": "peft",
    "pyarrow": "pyarrow",
    "pytest": "pytest",
    "rich": "rich",
    "scipy": "scipy",
    "threadpoolctl": "threadpoolctl",
    "typer": "typer",
    "zarr": "zarr",
}
"""Module → package: what tests/cuda and benchmarks/gpu.py import. Not datasets, which only other readers need."""


def key(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> list[str]:
    """Every installed package at its version, and ours at those of constraints.txt."""
    held = {key(one.metadata["Name"]): f"{one.metadata['Name']}=={one.version}" for one in distributions()}
    for line in (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines():
        name, equals, _ = line.partition("==")
        if equals and not name.startswith("#"):
            held.setdefault(key(name), line)
    return sorted(held.values())


def check(where: str) -> None:
    """A sentence and exit code 1 where what we can't install is missing."""
    for name in ("torch", "transformers"):
        if not find_spec(name):
            raise SystemExit(f"{name} is not installed for {sys.executable}. Install it, or give PYTHON=...")
    import torch

    if where == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device. `benchmarks/gpu.sh cpu` runs the same with tiny shapes.")
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.device_count()} devices")


def main() -> None:
    """See above."""
    if sys.argv[1] == "--check":
        check(sys.argv[2])
        return
    Path(sys.argv[1]).write_text("\n".join(constraints()) + "\n")
    print(*(package for module, package in NEEDED.items() if not find_spec(module)))


if __name__ == "__main__":
    main()
