"""`--shard-model`: the processes of torchrun or srun that hold one model together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ntkcli import options as o
from ntkcli.errors import UsageError
from ntkcli.group import ALONE, Group
from ntkcli.steps.shared.together import together


@contextmanager
def holders(shard_model: bool, device: str, *, shard: str | None = None, dry_run: bool = False) -> Iterator[Group]:
    """The processes that hold the model together; this one alone without the option.

    Raises:
        UsageError: there is one process, or what was given with the option contradicts it.
    """
    if not shard_model:
        yield ALONE
        return
    if dry_run:
        raise UsageError("--shard-model does not apply to --dry-run, which counts for one process.", "Leave it out.")
    if shard is not None:
        raise UsageError("--shard and --shard-model: processes that share a model share the parts too.", "Give one.")
    process = o.own_shard()
    if process[1] == 1:
        raise UsageError(
            "--shard-model shares a model between processes, and this is the only one.",
            "Start it under torchrun or srun, a process for each GPU.",
        )
    with together(process, device) as processes:
        yield processes
