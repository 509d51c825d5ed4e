"""Processes that take the parts of one artefact in turns: each computes its shard, then waits for the others' parts."""

from __future__ import annotations

import time
from collections.abc import Sequence

import store
from ntkcli.errors import NtkselError
from ntkcli.progress import Progress

Shard = tuple[int, int]
"""(i, n): the parts i, i + n, ... are this process's."""
ALONE: Shard = (0, 1)
PATIENCE_SECONDS = 1800.0
"""Without a new part: longer than a part takes on any device; then the others have stopped."""
_LOOK_SECONDS = 0.5


def wait_for_others(artefacts: Sequence[store.Artefact], shard: Shard, progress: Progress) -> None:
    """Wait until all parts are there; each process has done its own.

    Raises:
        NtkselError: no part came for `PATIENCE_SECONDS`.
    """
    if shard == ALONE:
        return
    done, since, noted = -1, time.monotonic(), False
    while not all(artefact.complete for artefact in artefacts):
        now = sum(artefact.rows_done() for artefact in artefacts)
        if now != done:
            done, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            names = ", ".join(artefact.name for artefact in artefacts if not artefact.complete)
            raise NtkselError(
                f"{names}: the other processes have written nothing for {PATIENCE_SECONDS / 60:.0f} minutes.",
                "Start the command again, with or without torchrun or srun: it computes the parts that are missing.",
            )
        if not noted:
            progress.note(f"process {shard[0] + 1} of {shard[1]} has done its parts and waits for the others")
            noted = True
        time.sleep(_LOOK_SECONDS)
