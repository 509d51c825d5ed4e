"""Paths as users write them: `~` and `~user` for a home folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

AND: Final = " + "
"""Between places that are read one after the other, as one."""


def home(reference: str | Path) -> str:
    """The reference with `~` or `~user` at its beginning as a home folder; as it is where there is none."""
    return os.path.expanduser(str(reference))


def places_of(reference: str) -> list[str]:
    """The places of `a.jsonl + b.jsonl`, of which one may have the mark in its name, if it is there."""
    pieces, places = reference.split(AND), list[str]()
    while pieces:
        sizes = range(len(pieces), 1, -1)
        size = next((size for size in sizes if os.path.lexists(home(AND.join(pieces[:size])))), 1)
        places.append(AND.join(pieces[:size]))
        pieces = pieces[size:]
    return places
