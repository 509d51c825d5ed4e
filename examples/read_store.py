#!/usr/bin/env python
"""Read a store with zarr and numpy alone, without ntksel: features, scores and selections are plain arrays.

python examples/read_store.py STORE
"""

from __future__ import annotations

import sys

import numpy as np
import zarr

root = zarr.open_group(f"{sys.argv[1]}/arrays.zarr", mode="r")

for place in ("features", "scores", "selections"):
    if place not in root:
        continue
    for name, array in sorted(root[place].members(max_depth=None)):
        if isinstance(array, zarr.Array) and name.rpartition("/")[2] in ("sketch", "embedding", "score", "row"):
            done = np.count_nonzero(root[place][name.rpartition("/")[0]]["part"][:])
            print(f"{place}/{name}: shape {array.shape}, {array.dtype}, {done} parts recorded")

# Rows of a part without a record are not data, whatever the array shows there: look at `part` first.
for name, selection in sorted(root["selections"].groups()) if "selections" in root else []:
    data = selection.attrs["data"]
    ids, rows = root[f"datasets/{data}/row_id"][:], selection["row"][:]
    best = ", ".join(f"{ids[row]} ({score:.4g})" for row, score in zip(rows[:5], selection["score"][:5], strict=True))
    print(f"selection {name} of {data}, best first: {best}")
