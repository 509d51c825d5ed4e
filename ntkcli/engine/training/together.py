"""Gradients of a step whose rows several processes share: each row's are computed by one, and summed over all.

Not by torch's DistributedDataParallel, which averages at every backward: a step here has many, as its rows fit, and not
the same number in each process. Losses are divided by what the whole step counts, so that the sum is the step's
gradient: that of one process, but for the order of a few sums.

Legend: P trained weights (tensors).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ntkcli.group import Group


def add_up_step(model: Any, loss: Tensor, group: Group) -> Tensor:
    """The step's loss from the processes' parts of it; their gradients are summed in place. Errors of `group`.

    A weight that has a gradient in no process has none afterwards. One transfer, of the trained weights' size.
    """
    if group.count == 1:
        return loss
    trained = [p for p in model.parameters() if p.requires_grad]
    has_P = torch.tensor([float(p.grad is not None) for p in trained], device=loss.device)
    grads = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in trained]
    total, has_P, *found = torch.split(
        group.add_up(torch.cat([loss.float().reshape(1), has_P, *grads])), [1, len(trained), *map(len, grads)]
    )
    for p, some, grad in zip(trained, has_P.tolist(), found, strict=True):
        p.grad = grad.view_as(p).to(p.dtype).clone() if some else None
    return total[0].to(loss.dtype)


def same_start(model: Any, group: Group) -> None:
    """Let all processes begin with the first one's trained weights: drawn by another device they might differ."""
    if group.count == 1:
        return
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(group.add_up(p if group.first else torch.zeros_like(p)))
