"""The kernel matrix of rows by features that the study's store keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ntkcli.scoring.features import FeatureReader
from ntkcli.statistics.kernels import Floats
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.shared.stores import open_store


def stored_kernel(store: Path, sides: Mapping[str, Path], feature: str, **how: Any) -> Floats:
    """The raw kernel matrix of the rows of some data sets, one after the other, by features that the store keeps."""
    raw = []
    for name, path in sides.items():
        featurize(store, data=path, name=name, feature=feature, **how)
        made = open_store(store).get(f"features/{name}/{feature}")
        raw += [block.unit * block.norm[:, None] for block in FeatureReader(made, n=made.n).blocks()]
    rows = np.concatenate(raw)
    product: Floats = rows @ rows.T
    return product
