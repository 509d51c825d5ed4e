"""A run's checkpoints: which are whole, what stands beside the Trainer's own, the best adapter so far.

    checkpoints/checkpoint-<steps>/   the Trainer's, and in it `ntksel-checkpoint-whole`, written last
                                      and, where weights are averaged, `weight-average.safetensors`
    checkpoints/best-<steps>/         the adapter of the lowest held-out loss
    steps/step-<steps>/               with --keep-checkpoints, the adapter before the first step (0) and at each
                                      checkpoint, in peft's form; on disk before the checkpoint is whole

A best adapter is on disk before the checkpoint that counts on it is whole, and removed after a later one is: a kill at
any instant leaves the newest whole checkpoint with its best adapter.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from store import atomic

WHOLE = "ntksel-checkpoint-whole"
"""The file that is written into a checkpoint last, after all of it is on disk."""
STEPS = "steps"
"""In a run's folder, where adapters of steps are kept."""


@dataclass(slots=True)
class RunState:
    """What a run must remember beside the Trainer's state, as of a step.

    `rate_sum`: of the learning rates of all steps. `budget_tokens`: what memory allowed. `best_step` (steps taken) and
    `best_loss`: the lowest held-out loss; `worse`: evaluations since; `stopped`: they were too many.
    """

    budget_tokens: int
    rate_sum: float = 0.0
    best_step: int | None = None
    best_loss: float | None = None
    worse: int = 0
    stopped: bool = False


def copies_on_disk(*, keep_optimizer: bool, held_out: bool, averaged: bool = False, kept: int = 0) -> int:
    """How many times the adapter's size a run takes on disk at most.

    Three checkpoints with two moments each (the oldest goes when the newest stands), the adapter, the moments that are
    kept, two best adapters with theirs, a mean of the weights in each checkpoint, and `kept` adapters of steps.
    """
    return 10 + 2 * keep_optimizer + 6 * held_out + 3 * averaged + kept


def newest_checkpoint(checkpoints: Path, *, at_most: int) -> Path | None:
    """The newest whole checkpoint of at most this many steps; half-written ones (a kill) and later ones are removed."""
    whole = []
    for path in checkpoints.glob("checkpoint-*"):
        state = read_state(path)
        has_best = state is not None and (state.best_step is None or (checkpoints / f"best-{state.best_step}").is_dir())
        if has_best and steps_of(path) <= at_most:
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=steps_of, default=None)


def drop_older(checkpoints: Path) -> None:
    """Remove what a finished run needs no more: all but its last checkpoint (--keep-optimizer may still ask for it)."""
    for path in sorted(checkpoints.glob("checkpoint-*"), key=steps_of)[:-1]:
        shutil.rmtree(path)


def steps_of(folder: Path) -> int:
    """Steps taken, by the folder's name."""
    return int(folder.name.rpartition("-")[2])


def read_state(checkpoint: Path) -> RunState | None:
    """The state in a checkpoint; None if the checkpoint is not whole."""
    try:
        return RunState(**json.loads((checkpoint / WHOLE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def mark_whole(checkpoint: Path, state: RunState) -> None:
    """Vouch for a checkpoint, once all of it is on disk; then remove best adapters that none needs any more."""
    atomic.fsync_tree(checkpoint)
    atomic.write_bytes(checkpoint / WHOLE, json.dumps(asdict(state)).encode())
    for path in checkpoint.parent.glob("best-*"):
        if steps_of(path) != state.best_step:
            shutil.rmtree(path)


def keep_best(checkpoints: Path, steps: int, save: Callable[[Path], None]) -> None:
    """Keep the adapter that `save` writes into a folder as the best, durable."""
    _publish(checkpoints / f"best-{steps}", save)


def keep_step(run: Path, steps: int, save: Callable[[Path], None]) -> None:
    """Keep the adapter that `save` writes into a folder as that of this many steps of the run, durable."""
    _publish(run / STEPS / f"step-{steps}", save)


def kept_steps(run: Path) -> dict[int, Path]:
    """The adapters kept of a run, by steps taken, ascending."""
    found = {steps_of(path): path for path in (run / STEPS).glob("step-*")}
    return dict(sorted(found.items()))


def kept_until(run: Path, *, every: int, n: int) -> int:
    """The steps up to which an adapter was kept at each checkpoint, from before the first step on; -1 for none."""
    kept, until = kept_steps(run), -1
    for steps in dict.fromkeys([*range(0, n, every), n]):
        if steps not in kept:
            break
        until = steps
    return until


def _publish(final: Path, save: Callable[[Path], None]) -> None:
    work = final.with_name("saving")
    for path in (final, work):  # what a killed process left
        shutil.rmtree(path, ignore_errors=True)
    work.mkdir(parents=True)
    save(work)
    atomic.publish_dir(work, final)
