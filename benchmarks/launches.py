"""How many kernels a piece of work starts, counted by torch.profiler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

_STARTS = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchCooperativeKernel")


def count(work: Callable[[], object]) -> int:
    """Kernels that `work` starts on CUDA; on a CPU the operations of torch that call no other one."""
    work()  # compiled and warm
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as seen:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    events = seen.events() or []
    if torch.cuda.is_available():
        return sum(event.name.startswith(_STARTS) for event in events)
    return sum(event.name.startswith("aten::") and not event.cpu_children for event in events)
