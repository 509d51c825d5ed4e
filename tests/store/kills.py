"""Real SIGKILLs at random moments of a real writer; used by the suite and, for longer, by benchmarks/kills.py."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from store import Store, check
from tests.store import kit

MANY_PARTS: dict[str, Any] = {"part_rows": 1}  # ten parts of six arrays
LONGEST_SECONDS = 0.2  # of a writer's life: an unbroken run takes about as long
_CONTEXT = multiprocessing.get_context("forkserver")  # a writer that starts in milliseconds, not in a second


def write(path: Path, ready: Connection) -> None:
    """What the victim does: say that it begins, then make the store or go on with it."""
    ready.send_bytes(b"now")
    kit.run(path, **MANY_PARTS)


def kill_after(path: Path, delay: float) -> bool:
    """Whether a writer of the store at `path` was killed, `delay` seconds into its work; else it got through."""
    ours, its = _CONTEXT.Pipe(duplex=False)
    victim = _CONTEXT.Process(target=write, args=(path, its))
    victim.start()
    ours.recv_bytes()
    time.sleep(delay)
    victim.kill()
    victim.join()
    ours.close(), its.close()
    if victim.exitcode not in (0, -signal.SIGKILL):
        raise AssertionError(f"the writer failed by itself: {victim.exitcode}")
    return victim.exitcode != 0


def kill_again_and_again(
    folder: Path, kills: int, *, seed: int, on_kill: Callable[[int], None] = lambda _: None
) -> int:
    """Kill writers `kills` times, at moments drawn from `seed`; how many stores came out whole in between.

    AssertionError if ever a record vouches for rows that are not good, a recorded part is lost, or a finished store's
    bytes are not those of one that nobody killed.
    """
    _CONTEXT.set_forkserver_preload(["tests.store.kills", "zarr"])
    kit.run(folder / "unbroken", **MANY_PARTS)
    expected = kit.tree(folder / "unbroken")
    draw, path, done, whole, killed = random.Random(seed), folder / "killed", set[int](), 0, 0
    while killed < kills:
        if kill_after(path, draw.uniform(0, LONGEST_SECONDS)):
            killed += 1
            done = _recorded(path, done)
            on_kill(killed)
            if draw.random() < 0.8:
                continue
        kit.run(path, **MANY_PARTS)
        assert kit.tree(path) == expected, f"after {killed} kills"
        assert list((path / "tmp").iterdir()) == []
        shutil.rmtree(path)
        whole, done = whole + 1, set()
    return whole


def _recorded(path: Path, before: set[int]) -> set[int]:
    """The parts recorded, all good, none lost since `before`."""
    if not (path / "store.json").is_file():
        return set()
    store = Store.open(path)
    assert check(store).findings == ()
    artefact = store.find(kit.NAME)
    now = set() if artefact is None else set(artefact.done().nonzero()[0].tolist())
    assert before <= now, f"parts {before - now} were lost"
    return now
