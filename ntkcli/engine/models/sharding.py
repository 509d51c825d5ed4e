"""A model that several processes hold together: each keeps a share of every block's weights (torch's FSDP2).

A block's weights are gathered on every device as it computes, and dropped after. Embedding, final norm and output layer
stay whole on each. Every process computes rows of its own, but all must run the model equally often: `Lockstep`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from weakref import ref

import torch
from torch import nn

from ntkcli.engine.models import loading
from ntkcli.engine.models.devices import pick_device
from ntkcli.engine.models.loading import LoadedModel, decoder_of
from ntkcli.engine.models.lockstep import Lockstep
from ntkcli.errors import UsageError
from ntkcli.group import Group
from ntkcli.identity import ModelIdentity


def load_shared(
    identity: ModelIdentity,
    *,
    dtype: str,
    device: str,
    processes: Group,
    with_head: bool = True,
    look: Callable[[LoadedModel], object] = lambda _: None,
) -> LoadedModel:
    """The model as `load_model` gives it; of several processes each holds a share of it.

    These read the files into page cache that a machine's processes share, and never hold the model whole on a device.
    `look` is given the model while it still is whole.

    Raises:
        UsageError: the model's weights are quantised, or two processes would share one CUDA device.
    """
    if processes.count == 1:
        loaded = loading.load_model(identity, dtype=dtype, device=device, with_head=with_head)
        look(loaded)
        return loaded
    place = pick_device(device)
    loaded = loading.load_model(identity, dtype=dtype, device="cpu", with_head=with_head, mapped=place.type == "cuda")
    look(loaded)
    _refuse_unshared(loaded.model, identity, place, processes)
    shard_blocks(loaded.model, place, processes)
    step = Lockstep(processes)
    _wrap(decoder_of(loaded.model), step)
    return replace(loaded, device=place, lockstep=step)


def shard_blocks(model: Any, device: torch.device, processes: Group) -> None:
    """Share the weights of the decoder's blocks between the processes; all else moves to the device whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if device.type == "cuda":
        torch.cuda.set_device(device)
    mesh = init_device_mesh(device.type, (processes.count,))
    decoder = decoder_of(model)
    blocks = _blocks(decoder)
    shared = {id(x) for x in blocks.parameters()}
    whole = [x for x in model.parameters() if id(x) not in shared]
    for weight in whole:
        weight.data = weight.data.to(device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(decoder, mesh=mesh, ignored_params=set(whole))  # the blocks' common root: one gathers ahead of another


def _blocks(decoder: nn.Module) -> nn.ModuleList:
    """The decoder's list of blocks: of its lists of modules the one with most weights."""
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise UsageError(
            f"--shard-model: {type(decoder).__name__} keeps its blocks in no list; it can't be shared.", "Leave it out."
        )
    return max(lists, key=lambda one: sum(x.numel() for x in one.parameters()))


def _refuse_unshared(model: nn.Module, identity: ModelIdentity, place: torch.device, processes: Group) -> None:
    if any(not x.is_floating_point() for x in model.parameters()):
        raise UsageError(
            f"--shard-model: the weights of {identity.label} are quantised, which can't be shared.",
            "Leave it out, or give the model in plain floats.",
        )
    if place.type == "cuda" and not processes.apart:
        raise UsageError(
            f"--shard-model: two of the {processes.count} processes have the same GPU, {place} of one machine.",
            "Start as many processes as there are GPUs, and leave --device out.",
        )


def _wrap(decoder: nn.Module, step: Lockstep) -> None:
    """Let the decoder compute outside of inference mode, whose tensors no later backward could use, in its turn."""
    forward, of = type(decoder).forward, ref(decoder)  # held weakly: else it would hold itself

    def wrapped(*args: Any, **how: Any) -> Any:
        with ExitStack() as held:
            if torch.is_inference_mode_enabled():
                held.enter_context(torch.inference_mode(mode=False))
                held.enter_context(torch.no_grad())
            if step.every_forward:
                held.enter_context(step.turn())
            return forward(of(), *args, **how)

    decoder.forward = wrapped


@torch.inference_mode()
def run_once(loaded: LoadedModel) -> None:
    """One forward of the decoder."""
    decoder_of(loaded.model)(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=loaded.device), use_cache=False)
