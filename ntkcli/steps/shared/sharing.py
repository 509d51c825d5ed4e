"""Which parts of its artefacts a process computes: all, or those that a driver gave it (`ntksel ... --ray`).

A verb filters its pending parts by `mine`, and calls `end_share` after its last part: of a share nothing is summed up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import store


class ShareDoneError(Exception):
    """The parts of a share are done; what comes after all parts is for the driver."""


@dataclass(slots=True)
class Share:
    """Parts by artefact; None: the first pending part alone, which finds out what there is to do.

    `artefacts` are the names of those that the verb asked for.
    """

    parts: Mapping[str, Collection[int]] | None = None
    artefacts: list[str] = field(default_factory=list)
    took: bool = False


_SHARE: ContextVar[Share | None] = ContextVar("_SHARE", default=None)


@contextmanager
def sharing(share: Share) -> Iterator[Share]:
    """Within, in this context, verbs compute the parts of the share alone."""
    token = _SHARE.set(share)
    try:
        yield share
    finally:
        _SHARE.reset(token)


def mine(artefact: store.Artefact, pending: Sequence[int]) -> list[int]:
    """Those of the artefact's pending parts that this process is to compute."""
    share = _SHARE.get()
    if share is None:
        return list(pending)
    if artefact.name not in share.artefacts:
        share.artefacts.append(artefact.name)
    if share.parts is not None:
        return [part for part in pending if part in share.parts.get(artefact.name, ())]
    if share.took or not pending:
        return []
    share.took = True
    return [pending[0]]


def end_share() -> None:
    """ShareDoneError if this process computes a share alone."""
    if _SHARE.get() is not None:
        raise ShareDoneError
