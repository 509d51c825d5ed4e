"""Memory of models that nobody uses any more: a process may run many commands (`ntksel run`, `arms`, Python's API)."""

from __future__ import annotations

import gc

import torch


def free_memory() -> None:
    """Give back what models of a CUDA device held once nothing but circles of references keeps them.

    peft and the Trainer leave such circles, which Python collects when it has made many small objects, and a model is
    few large ones. On a CPU they wait for that: to look for them takes a tenth of a second.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
        gc.collect()
        torch.cuda.empty_cache()
