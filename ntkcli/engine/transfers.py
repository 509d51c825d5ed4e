"""Move numbers to the device and back without waiting: page-locked memory, a stream for results, and events.

On CUDA a copy from or to ordinary memory waits for everything that the device was given before it. Page-locked memory
comes from torch's caching allocator, which reuses a block only after the copies from it and into it are done. On a CPU
nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor on the device; the host goes on at once, and may change the array."""
    host = torch.from_numpy(np.ascontiguousarray(array))
    return page_locked(host).to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def page_locked(host: Tensor) -> Tensor:
    """A copy of a tensor in memory that the device can read by itself."""
    return host.pin_memory()


def page_locked_like(one: Tensor) -> Tensor:
    """Room for a copy of a tensor, in memory that the device can write by itself."""
    return torch.empty(one.shape, dtype=one.dtype, pin_memory=True)


class Outbox:
    """Sends results to the host on a stream of its own: they can be read while the device computes the next batch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_cuda else None  # type: ignore[no-untyped-call]  # torch's

    @property
    def waits(self) -> bool:
        """Whether a result may still be on its way when it is sent: on CUDA."""
        return self._stream is not None

    def send(self, results: Sequence[Tensor]) -> Parcel:
        """Copy the results as soon as the work that the device was given so far is done. Does not wait."""
        if self._stream is None:
            return Parcel(results, results, None)
        results = [one.contiguous() for one in results]  # on the stream that they are made on
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            arrived = [page_locked_like(one) for one in results]
            for host, one in zip(arrived, results, strict=True):
                host.copy_(one, non_blocking=True)
            # The thread that waits for it sleeps, so that others encode and write.
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's
            done.record(self._stream)
        return Parcel(results, arrived, done)


class Parcel:
    """Results on their way. They stay on the device until they are taken, so that nothing is written over them."""

    def __init__(self, sent: Sequence[Tensor], arrived: Sequence[Tensor], done: torch.cuda.Event | None) -> None:
        self._sent, self._arrived, self._done = list(sent), arrived, done

    def take(self) -> list[NDArray[Any]]:
        """The results as arrays; waits for them alone, not for what the device was given since."""
        if self._done is not None:
            self._done.synchronize()
        self._sent.clear()
        return [one.numpy() for one in self._arrived]
