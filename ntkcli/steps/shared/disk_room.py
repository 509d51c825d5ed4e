"""Whether the disk has room for what a step will write."""

from __future__ import annotations

from collections.abc import Sequence

import store
from ntkcli.errors import NtkselError
from ntkcli.units import human_bytes


def refuse_without_room(
    artefact: store.Artefact,
    pending: Sequence[int],
    *,
    instead: str = ", or give another feature with a smaller --dim or --store-dtype int8",
) -> None:
    """NtkselError, before anything is computed, if the disk can't hold the parts that are pending."""
    needed, free = artefact.bytes_to_write(pending), store.free_bytes(artefact.path)
    if needed > free:
        raise NtkselError(
            f"{artefact.name} needs {human_bytes(needed)} more and the disk of {artefact.path} has "
            f"{human_bytes(free)} left.",
            f"Make room (`ntksel rm` removes what is in a store){instead}.",
        )
