"""Several processes as one `Group`, by torch's process groups: gloo for what is said, and for numbers NCCL or gloo.

The launcher's variables say where the others are: torchrun's, or those of a step of SLURM's. Numbers go by NCCL where
each process has a CUDA device of its own, else through the CPU.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ntkcli.errors import ExitCode, NtkselError, UsageError
from ntkcli.group import Group, ToldElsewhereError
from ntkcli.signals import at_once

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""For a process that is not heard of: longer than a step, a checkpoint or the loading of a model takes."""
_PORTS = range(20_000, 30_000)
"""Of a step of SLURM's, by its number: below those that Linux gives out by itself (32768 on)."""


class ProcessGroup(Group):
    """This process as one of several. To be left by `leave`."""

    def __init__(self, index: int, count: int, device: torch.device) -> None:
        self.index, self.count, self._in_step = index, count, False
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        with _unreachable(), at_once():  # it waits in C++, and nothing is written yet
            dist.init_process_group(
                backend, init_method=_meeting_place(), rank=index, world_size=count, timeout=PATIENCE
            )
            found = self.agree((socket.gethostname(), str(device)))
        self._apart = len(set(found)) == count  # NCCL refuses two processes on one device
        self._place = device if device.type == "cuda" and self._apart else torch.device("cpu")

    @property
    def apart(self) -> bool:
        """See `Group`."""
        return self._apart

    def check(self) -> None:
        """See `Group`."""
        self._say(None)

    def agree(self, value: T) -> list[T]:
        """See `Group`."""
        self._say(None)
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def first_says(self, make: Callable[[], T]) -> T:
        """See `Group`."""
        said = make() if self.first else None
        return self.agree(said)[0]  # type: ignore[return-value]  # the first one's

    def add_up(self, tensor: Tensor) -> Tensor:
        """See `Group`."""
        self._say(None)
        total = tensor.to(self._place, copy=True)
        with _unreachable():
            dist.all_reduce(total)
        return total.to(tensor.device)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """See `Group`."""
        try:
            yield
        except ToldElsewhereError:
            raise
        except BaseException as error:
            if not (self._in_step or isinstance(error, _LostError)):
                with suppress(_LostError):  # its own error says more
                    self._say(error)
            raise

    def working(self, *, me: bool) -> int:
        """See `Group`."""
        return self._say(None, working=me)

    @contextmanager
    def untold(self) -> Iterator[None]:
        """See `Group`."""
        self._in_step = True
        yield
        self._in_step = False  # not after an error

    def leave(self) -> None:
        """End the group."""
        if not self._in_step:  # else others wait for this process, which is about to end
            dist.destroy_process_group()

    def _say(self, error: BaseException | None, *, working: bool = False) -> int:
        """Say whether this process goes on, and hear it of the others. Of those that fail the first reports its error.

        Returns how many are `working`.

        Raises:
            ToldElsewhereError: another process reports an error.
        """
        counts = torch.tensor([int(error is not None), int(working)])
        with _unreachable():
            dist.all_reduce(counts)
            failed, at_work = counts.tolist()
            if not failed:
                return int(at_work)
            codes: list[int | None] = [None] * self.count
            dist.all_gather_object(codes, None if error is None else _code(error))
        reports = next(i for i, code in enumerate(codes) if code is not None)
        if reports != self.index:
            code = codes[reports] or ExitCode.FAILURE
            raise ToldElsewhereError(f"Process {reports + 1} of {self.count} has failed.", code) from error
        return 0


class _LostError(NtkselError):
    """Another process is gone."""


@contextmanager
def _unreachable() -> Iterator[None]:
    """torch's errors of a process that can't be reached, as one for the user."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # DistNetworkError, DistBackendError are of the first
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise _LostError(
            f"Another process of this training can't be reached: {reason}",
            "See what it has reported; then start the same command again: it continues from the last checkpoint.",
        ) from error


def _code(error: BaseException) -> int:
    if isinstance(error, NtkselError):
        return error.code
    return ExitCode.INTERRUPTED if isinstance(error, KeyboardInterrupt) else ExitCode.FAILURE


def _meeting_place() -> str:
    """Where the processes meet, as torch takes it: torchrun's own, or a port on the first node of a step of SLURM's.

    Raises:
        UsageError: the environment does not say.
    """
    if "RANK" in os.environ and "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        if os.environ["MASTER_PORT"] == "0":
            raise UsageError(
                "MASTER_PORT=0 in the environment: the processes can't meet at port 0.",
                "Start torchrun with --standalone, or with a --master-port that is free.",
            )
        return "env://"
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    host = os.environ.get("MASTER_ADDR") or (None if nodes is None else first_node(nodes))
    if host is None:
        raise UsageError(
            "The environment does not say where the processes of this training meet.",
            "Start them by torchrun or srun, or set MASTER_ADDR and MASTER_PORT.",
        )
    step = int(os.environ.get("SLURM_JOB_ID", "0")) + 7919 * int(os.environ.get("SLURM_STEP_ID", "0"))
    port = os.environ.get("MASTER_PORT") or _PORTS[step % len(_PORTS)]
    return f"tcp://{host}:{port}"


def first_node(nodes: str) -> str:
    """The first host in SLURM's list of them: `gpu[03-05,9],login` is gpu03."""
    found = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^\[,]*)", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes
