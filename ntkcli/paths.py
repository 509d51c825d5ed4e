"""Paths as users write them: `~` and `~user` for a home folder."""

from __future__ import annotations

import os
from pathlib import Path


def home(reference: str | Path) -> str:
    """The reference with `~` or `~user` at its beginning as a home folder; as it is where there is none."""
    return os.path.expanduser(str(reference))
