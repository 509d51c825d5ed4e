"""Paths as users write them: `~` and `~user` for a home folder."""

from __future__ import annotations

import os
import re
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


_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+(?P<rest>.*)", re.DOTALL)


def remote_url(reference: str | Path) -> str | None:
    """The reference as a URL, if it is one: `s3://bucket/med`; None for a path.

    `Path` makes one slash of two, which is undone.
    """
    found = _URL.fullmatch(str(reference))
    if found is None:
        return None
    root = "/" if found["scheme"].lower() in ("file", "local") else ""  # what follows the host, which is this one
    return f"{found['scheme'].lower()}://{root}{found['rest']}"


def without_secrets(url: str) -> str:
    """The URL without what is before an @ and behind a ?, where passwords and tokens are: to be shown."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
