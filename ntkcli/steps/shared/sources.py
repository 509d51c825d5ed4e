"""Rows by the label of their source, as `source=a,b` names them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import UsageError, listed

BY_SOURCE = "source="
"""What a value begins with that names labels instead of a file."""


def rows_of_sources(dataset: store.Artefact, text: str, *, option: str) -> tuple[NDArray[np.int64], list[str]]:
    """The rows (ascending) whose label is one of `source=a,b`, and these labels, sorted.

    Raises:
        UsageError: the data set has no such label.
    """
    labels, known = sorted(set(text.removeprefix(BY_SOURCE).split(","))), list(dataset.attrs["sources"])
    if missing := [label for label in labels if label not in known]:
        have = listed([label for label in known if label]) or "none"
        raise UsageError(
            f"{option} {text}: 0 rows; {dataset.name} has no rows of the source {missing[0]!r}.",
            f"Its sources are: {have}.",
        )
    codes = [known.index(label) for label in labels]
    return np.flatnonzero(np.isin(dataset.read("source"), codes)).astype(np.int64), labels
