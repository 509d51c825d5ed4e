"""A pool of one process, this one, and the commands that are shared."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ntkcli.commands import on_ray
from ntkcli.commands.share import run_share
from ntkcli.steps.cluster.jobs import Job, Outcome, Pool


class Inline:
    """Runs each job when it is waited for, the last one first, as a fast machine would overtake."""

    def __init__(self, run: Callable[[Job], Outcome], slots: int = 2) -> None:
        self.slots, self._run = slots, run
        self.jobs: list[Job] = []
        self.waiting: list[int] = []
        self.ended: dict[int, Outcome] = {}
        self.cancelled: list[int] = []

    def submit(self, job: Job) -> Hashable:
        self.jobs.append(job)
        self.waiting.append(len(self.jobs) - 1)
        return len(self.jobs) - 1

    def wait(self, handles: Sequence[Hashable], seconds: float) -> list[Hashable]:
        assert seconds > 0
        number = self.waiting.pop()
        assert number in handles
        self.ended[number] = self._run(self.jobs[number])
        return [number]

    def outcome(self, handle: Hashable) -> Outcome:
        return self.ended[handle]  # type: ignore[index]

    def cancel(self, handles: Sequence[Hashable]) -> None:
        self.cancelled = list(handles)  # type: ignore[arg-type]


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> list[Inline]:
    """`--ray` shares with a pool in this process; the pools that were made."""
    made: list[Inline] = []

    @contextmanager
    def pool_of(address: str, store: Path, commands: Sequence[Sequence[str]]) -> Iterator[Pool]:
        pool = Inline(lambda job: run_share(job, os.getcwd()))
        made.append(pool)
        yield pool

    monkeypatch.setattr(on_ray, "pool_of", pool_of)
    return made


def arrays_of(store: Path) -> dict[str, bytes]:
    """Chunks, records and adapters' weights of a store: the bytes that must be those of one process."""
    found = {}
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store).as_posix()
        if (
            path.is_file()
            and ("/c/" in name or name.endswith("adapter_model.safetensors"))
            and "checkpoint" not in name
        ):
            found[name] = path.read_bytes()
    return found
