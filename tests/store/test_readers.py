"""A store opens in what others use: xarray and dask, where they are installed."""

from __future__ import annotations

import numpy as np
import pytest

from store import Store
from tests.store import kit


def test_xarray_opens_an_artefact_with_its_dimensions(store: Store) -> None:
    xarray = pytest.importorskip("xarray")
    artefact = kit.fill(kit.make(store))
    with xarray.open_zarr(artefact.path, consolidated=False, chunks=None, mask_and_scale=False) as found:
        assert found["sketch"].dims == ("row", "sketch_1")
        assert found.attrs["fingerprint"] == artefact.fingerprint
        for array in ("sketch", "norm", "tokens", "status", "row"):
            np.testing.assert_array_equal(found[array].to_numpy(), kit.rows()[array])
        assert found["row_id"].to_numpy().tolist() == kit.rows()["row_id"].tolist()


def test_dask_reads_an_array_by_its_parts(store: Store) -> None:
    dask_array = pytest.importorskip("dask.array")
    artefact = kit.fill(kit.make(store))
    lazy = dask_array.from_zarr(str(artefact.path / "sketch"))
    assert lazy.chunks[0] == (4, 4, 2)
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), kit.rows()["sketch"])
