"""As much of Triton as the sketch's kernel uses, in numpy: programs run one after the other, addresses are checked."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch

_PROGRAM = [0, 0]


class _Number(int):
    """A scalar of the kernel."""

    def to(self, _: Any) -> _Number:
        return self


class _Pointer:
    """A tensor's memory from its first number on, and how far each lane is from there."""

    def __init__(self, memory: np.ndarray, places: Any = 0) -> None:
        self.memory, self.places = memory, places

    def __add__(self, more: Any) -> _Pointer:
        return _Pointer(self.memory, self.places + more)


def _launcher(function: Callable[..., None]) -> Any:
    kernel = inspect.unwrap(function)

    class Launcher:
        def __getitem__(self, grid: Sequence[int]) -> Callable[..., None]:
            def launch(*arguments: Any, **sizes: Any) -> None:
                given = [_pointer(one) if isinstance(one, torch.Tensor) else _Number(one) for one in arguments]
                for _PROGRAM[:] in map(list, itertools.product(*map(range, grid))):
                    kernel(*given, **sizes)

            return launch

    return Launcher()


def _pointer(one: torch.Tensor) -> _Pointer:
    whole = torch.empty(0, dtype=one.dtype).set_(one.untyped_storage())  # type: ignore[call-overload]  # torch lacks it
    return _Pointer(whole.numpy(), one.storage_offset())


def _load(pointer: _Pointer, mask: Any = True, other: float = 0.0) -> Any:
    places, mask = np.broadcast_arrays(pointer.places, mask)
    assert ((places >= 0) & (places < len(pointer.memory)))[mask].all(), "reads outside"
    found = np.full(places.shape, other, dtype=pointer.memory.dtype)
    found[mask] = pointer.memory[places[mask]]
    return found if found.shape else found[()]


def _store(pointer: _Pointer, value: Any, mask: Any = True) -> None:
    places, mask = np.broadcast_arrays(pointer.places, mask)
    assert ((places >= 0) & (places < len(pointer.memory)))[mask].all(), "writes outside"
    assert len(np.unique(places[mask])) == mask.sum(), "two lanes write one number"
    pointer.memory[places[mask]] = value[mask]


def modules() -> dict[str, ModuleType]:
    """`triton` and `triton.language`, to be put into sys.modules."""
    triton, language = ModuleType("triton"), ModuleType("triton.language")
    vars(triton).update(jit=_launcher, cdiv=lambda a, b: -(-a // b), language=language)
    vars(language).update(
        program_id=lambda axis: _Number(_PROGRAM[axis]),
        arange=np.arange,
        load=_load,
        store=_store,
        minimum=min,
        int64=np.int64,
        constexpr=int,
    )
    return {"triton": triton, "triton.language": language}
