"""Copies that nobody waits for: the order of calls, with a device that only writes them down."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.engine import transfers

CUDA = torch.device("cuda:0")


class FakeStream:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def wait_stream(self, other: Any) -> None:
        self.log.append(f"wait for {other}")


class FakeEvent:
    def __init__(self, log: list[str], blocking: bool) -> None:
        self.log, self.blocking = log, blocking

    def record(self, stream: FakeStream) -> None:
        self.log.append("event" if isinstance(stream, FakeStream) else "event elsewhere")

    def synchronize(self) -> None:
        self.log.append(f"host waits, asleep: {self.blocking}")


class FakeRoom:
    """Memory that writes down what is copied into it, and how."""

    def __init__(self, log: list[str], shape: torch.Size) -> None:
        self.log, self.value = log, np.zeros(shape)

    def copy_(self, source: torch.Tensor, *, non_blocking: bool) -> None:
        self.log.append(f"copy {tuple(source.shape)}, waits: {not non_blocking}")
        self.value[...] = source.numpy()

    def numpy(self) -> np.ndarray:
        return self.value


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the fake device was asked for, in order."""
    calls: list[str] = []

    @contextmanager
    def stream(_: Any) -> Any:
        calls.append("to own stream")
        yield
        calls.append("back")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(calls))
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking: FakeEvent(calls, blocking))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the work of {device}")
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(transfers, "page_locked_like", lambda one: FakeRoom(calls, one.shape))
    return calls


def test_results_leave_on_a_stream_of_their_own(log: list[str]) -> None:
    outbox = transfers.Outbox(CUDA)
    assert outbox.waits
    parcel = outbox.send([torch.arange(6.0).reshape(2, 3), torch.ones(2)])
    sent = ["wait for the work of cuda:0", "to own stream", "copy (2, 3), waits: False", "copy (2,), waits: False"]
    assert log == [*sent, "event", "back"]
    first, second = parcel.take()
    assert log[6:] == ["host waits, asleep: True"]
    assert first.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert second.tolist() == [1, 1]


def test_a_result_stays_on_the_device_until_it_is_taken(log: list[str]) -> None:
    """Else the allocator would give its memory to the next batch while the copy still reads it."""
    import weakref

    made = torch.ones(3)
    alive = weakref.ref(made)
    parcel = transfers.Outbox(CUDA).send([made])
    del made
    assert alive() is not None
    parcel.take()
    assert alive() is None


class Handed:
    """Stands for a tensor in page-locked memory."""

    def __init__(self, host: torch.Tensor) -> None:
        self.host = host

    def to(self, device: torch.device, *, non_blocking: bool) -> tuple[torch.Tensor, torch.device, bool]:
        return self.host, device, non_blocking


def test_inputs_are_page_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "page_locked", Handed)
    numbers = np.arange(6).reshape(2, 3)[:, ::2]
    host, device, non_blocking = transfers.to_device(numbers, CUDA)  # type: ignore[misc]
    assert torch.equal(host, torch.tensor([[0, 2], [3, 5]]))
    assert (device, non_blocking) == (CUDA, True)


def test_on_a_cpu_nothing_is_copied() -> None:
    outbox, made = transfers.Outbox(torch.device("cpu")), torch.arange(3.0)
    assert not outbox.waits
    (taken,) = outbox.send([made]).take()
    made += 1
    assert taken.tolist() == [1, 2, 3]
    numbers = np.arange(3.0)
    assert transfers.to_device(numbers, torch.device("cpu")).data_ptr() == numbers.ctypes.data
