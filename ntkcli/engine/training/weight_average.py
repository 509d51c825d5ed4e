"""The mean of a training's weights over its last steps, kept in each checkpoint: a resumed run has the same bytes.

Averaging the last weights of one run narrows the spread between seeds that the last few batches cause (stochastic
weight averaging, arXiv 1803.05407; its form over the end of one schedule, arXiv 2209.14981).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from torch import Tensor

FILE = "weight-average.safetensors"
"""In a checkpoint: the mean so far, float32, by parameter; metadata: how many are in it."""


class WeightAverage:
    """Running mean of a model's trained weights after each step from `first` (steps taken, from 1) on."""

    def __init__(self, model: Any, *, first: int) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._first = first
        self._mean: dict[str, Tensor] = {}
        self.n = 0

    @classmethod
    def of_last(cls, share: float, model: Any, *, n_steps: int) -> Self:
        """Of the last `share` of `n_steps` steps; of at least one."""
        return cls(model, first=n_steps - max(1, math.floor(share * n_steps)) + 1)

    def add(self, steps: int) -> None:
        """Take in the weights as they are after this many steps; nothing before `first`."""
        if steps < self._first:
            return
        self.n += 1
        for name, parameter in self._parameters.items():
            weight = parameter.detach().float()
            if self.n == 1:
                self._mean[name] = weight.clone()
            else:
                self._mean[name].add_((weight - self._mean[name]) / self.n)

    def save(self, checkpoint: Path) -> None:
        """Write the mean so far into a checkpoint's folder; the caller makes it durable."""
        tensors = {name: mean.cpu().contiguous() for name, mean in self._mean.items()}
        safetensors.torch.save_file(tensors, checkpoint / FILE, metadata={"n": str(self.n)})

    def load(self, checkpoint: Path) -> None:
        """Go on from the mean in a checkpoint."""
        with safetensors.safe_open(checkpoint / FILE, "pt") as file:
            self.n = int(file.metadata()["n"])
            names = file.keys() if self.n else ()
            self._mean = {name: file.get_tensor(name).to(self._parameters[name].device) for name in names}

    def apply(self) -> None:
        """Put the mean into the model; nothing if no step was taken in."""
        with torch.no_grad():
            for name, mean in self._mean.items():
                self._parameters[name].copy_(mean)
