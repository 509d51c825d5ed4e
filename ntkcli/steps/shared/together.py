"""The processes that one command was started as, for steps in which they compute one thing together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ntkcli.group import ALONE, Group
from ntkcli.steps.shared.shards import ALONE as WHOLE
from ntkcli.steps.shared.shards import Shard


@contextmanager
def together(process: Shard, device: str) -> Iterator[Group]:
    """This process, (i, n), with the n - 1 others, for as long as the block runs. Waits until all are there.

    An error in the block ends all of them, and one reports it.

    Raises:
        UsageError: the environment does not say where they meet. NtkselError: they don't find each other.
    """
    if process == WHOLE:
        yield ALONE
        return
    from ntkcli.engine.models.devices import pick_device
    from ntkcli.engine.process_group import ProcessGroup

    group = ProcessGroup(*process, pick_device(device))
    try:
        with group.telling():
            yield group
    finally:
        group.leave()
