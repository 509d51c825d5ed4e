"""How fast this device multiplies matrices: the measure of every time estimate."""

from __future__ import annotations

import time

import torch

from ntkcli.engine.models.devices import DTYPES, pick_device, pick_dtype

MODEL_SHARE = 0.6
"""Of the matrix product's speed, what a transformer's forward and backward reach (SmolLM2 on 2 CPU cores: 0.6)."""


def operations_per_second(device: str) -> float:
    """Operations a second that a model can be expected to do, from a product of two 1,024² or 8,192² matrices."""
    place = pick_device(device)
    side = 8192 if place.type == "cuda" else 1024
    a = torch.ones(side, side, device=place, dtype=DTYPES[pick_dtype("auto", place)])
    best = float("inf")
    for _ in range(4):  # the first one warms up
        began = time.perf_counter()
        product = a @ a
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - began)
    return MODEL_SHARE * 2 * side**3 / best
