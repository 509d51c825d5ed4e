"""The processes of a Ray cluster. The only file that imports Ray, and only when `--ray` is given."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Final

from ntkcli.errors import NtkselError, UsageError
from ntkcli.model_files import reason_of
from ntkcli.signals import listen
from ntkcli.steps.cluster.jobs import Job, Outcome
from ntkcli.steps.cluster.nodes import Answer, Question, look, require_answers

LOCAL: Final = "local"
RETRIES: Final = 5
"""How often a job is begun again whose machine or process was lost; one that only frees memory counts too."""
_ANSWER_SECONDS: Final = 600
"""Within which a machine must answer: the first time it reads the model's files for their digest."""
_CANCEL_SECONDS: Final = 60
_CONNECT_SECONDS: Final = 20
SETTINGS: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing about this cluster is sent anywhere
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default; without it Ray warns
    "RAY_agent_register_timeout_ms": "300000",  # of a process of Ray's own, which on a busy machine starts slowly
}


class RayPool:
    """Jobs as tasks of Ray: a GPU each where the cluster has any, else so many cores as this process has threads."""

    def __init__(self, run: Callable[[Job, str, int], Outcome], *, gpu: bool, gpu_share: float, threads: int) -> None:
        import ray

        self._ray, self._threads, self._folder = ray, threads, os.getcwd()
        self._nodes = [node for node in ray.nodes() if node["Alive"]]
        gpus = sum(int(node["Resources"].get("GPU", 0)) for node in self._nodes)
        if gpu and gpus:
            self.slots = int(gpus / gpu_share)
            needs: dict[str, Any] = {"num_gpus": gpu_share, "num_cpus": 0}
        else:
            cores = [int(node["Resources"].get("CPU", 0)) for node in self._nodes]
            each = max(1, min(threads, max(cores, default=1)))
            self.slots = sum(count // each for count in cores)
            needs = {"num_cpus": each}
        if not self.slots:
            raise UsageError("The Ray cluster has neither a GPU nor a CPU to give.", "Add machines: `ray start`.")
        self._task = ray.remote(**needs, max_retries=RETRIES)(run)

    def ask(self, question: Question) -> list[Answer]:
        """The answers of all machines. NtkselError, naming it, if one can't run the program or does not answer."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        require_answers(self._nodes)
        asked = self._ray.remote(num_cpus=0, max_retries=0)(look)
        found = []
        for node in self._nodes:
            on = asked.options(scheduling_strategy=On(node["NodeID"], soft=False))
            found.append((node["NodeManagerHostname"], on.remote(question)))
        answers = []
        for host, answer in found:
            try:
                answers.append(self._ray.get(answer, timeout=_ANSWER_SECONDS))
            except Exception as error:  # of Ray: the import failed there, the machine is gone, no answer
                cause = getattr(error, "cause", None) or error
                raise NtkselError(
                    f"{host} can't run ntksel: {type(cause).__name__}: {reason_of(cause)}.",
                    "Install the same version there, in the Python that `ray start` runs in.",
                ) from error
        return answers

    def submit(self, job: Job) -> Hashable:
        """As `jobs.Pool` has it."""
        reference: Hashable = self._task.remote(job, self._folder, self._threads)
        return reference

    def wait(self, handles: Sequence[Hashable], seconds: float) -> list[Hashable]:
        """As `jobs.Pool` has it."""
        ended, _ = self._ray.wait(list(handles), num_returns=1, timeout=seconds)
        return list(ended)

    def outcome(self, handle: Hashable) -> Outcome:
        """As `jobs.Pool` has it."""
        try:
            found: Outcome = self._ray.get(handle)
        except Exception as error:  # of Ray: the process or machine was lost more often than is tried
            cause = getattr(error, "cause", None) or error
            return Outcome(
                error=NtkselError(
                    f"A job was lost {RETRIES + 1} times, or can't be run: {type(cause).__name__}: {reason_of(cause)}.",
                    "What was recorded is safe. Look at that machine (`ray status`), then run the same command again.",
                )
            )
        return found

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """As `jobs.Pool` has it."""
        for handle in handles:
            self._ray.cancel(handle)
        if handles:
            self._ray.wait(list(handles), num_returns=len(handles), timeout=_CANCEL_SECONDS)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Within, this process is connected to the cluster at the address, or to one of its own (`local`).

    UsageError if Ray is not installed, or nothing answers.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UsageError("--ray needs the package ray.", 'Install it: `pip install "ntksel[ray]"`.') from error
    if address != LOCAL:
        require_listener(address)
    how: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": "ERROR"}
    if address == LOCAL:
        how["include_dashboard"] = False
    try:
        ray.init(address=address, **how)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UsageError(
            f"--ray {address}: there is no cluster to connect to ({reason_of(error)}).",
            "Give `local`, or the address that `ray start --head` printed.",
        ) from error
    listen()  # Ray takes SIGTERM for itself
    try:
        yield
    finally:
        with redirect_stdout(sys.stderr):  # it writes out here what it held back of its machines' messages
            ray.shutdown()
        listen()


def require_listener(address: str) -> None:
    """UsageError unless something listens at `HOST:PORT`: Ray itself waits for a minute, and ends the process."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and "/" not in host and port.isdigit()):
        raise UsageError(
            f"--ray {address} is not an address.", "Give HOST:PORT as `ray start --head` printed it, or local."
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"--ray {address}: there is no cluster to connect to ({reason_of(error)}).",
            "Give `local`, or the address that `ray start --head` printed.",
        ) from error


def own_threads() -> int:
    """As many threads as this process computes with: jobs take as many, so that their sums are the same."""
    import torch

    return int(torch.get_num_threads())


def gpu_share(model_bytes: int, gpu_bytes: int, *, bounded: bool) -> float:
    """The share of a GPU that a job takes: all of it, unless `--batch-tokens` bounds what it needs and several fit.

    A job is taken to need four times the model's files and 2 GiB: weights, activations of a bounded batch, and what the
    allocator keeps. By default a batch takes all memory that is free, so two would not fit.
    """
    if not bounded or not gpu_bytes:
        return 1.0
    return 1 / max(1, min(8, gpu_bytes // (4 * model_bytes + (2 << 30))))


def model_bytes(model: str) -> int:
    """Bytes of the files of a model in a folder; endless for one that is not."""
    folder = Path(model)
    if not folder.exists():
        return 1 << 60
    files = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)
