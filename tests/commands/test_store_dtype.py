"""`--store-dtype`: what is kept, that scores agree, that it is part of the spec, and how much it takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy.stats import spearmanr

from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows

POOL = 60
STORED = ["float16", "int8", "float32"]


@pytest.fixture
def stores(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> dict[str, Path]:
    """The same features in one store a format, with a row that has none."""
    pool = [*prompt_rows(POOL - 1, seed=1), {"id": "x", "prompt": "x", "completion": ""}]
    data = {"pool": write_jsonl("pool.jsonl", pool), "domain": write_jsonl("domain.jsonl", prompt_rows(12, seed=2))}
    for dtype in STORED:
        for name, path in data.items():
            on = ["--kind", "ntk", "--model", model_dir, "--dim", "512", "--part-rows", "16", "--on-error", "skip"]
            ran = cli("featurize", tmp_path / dtype, "--data", path, "--name", name, *on, "--store-dtype", dtype)
            assert ran.code == (3 if name == "pool" else 0), ran.err
    return {dtype: tmp_path / dtype for dtype in STORED}


def test_scores_agree_with_float32(cli: Cli, stores: dict[str, Path]) -> None:
    for method in ("mean", "cosine"):
        scores = {}
        for dtype, path in stores.items():
            ran = cli("score", path, "--pool", "pool", "--domain", "domain", "--method", method, "--name", method)
            assert ran.code == 0
            scores[dtype] = zarr.open_group(path / "arrays.zarr", mode="r")[f"scores/{method}/score"][:-1]
        exact = scores["float32"]
        for dtype, error in {"float16": 1e-3, "int8": 1e-2}.items():
            assert np.abs(scores[dtype] - exact).max() < error * np.abs(exact).max()
        assert spearmanr(scores["float16"], exact).statistic > 0.999
        assert spearmanr(scores["int8"], exact).statistic > 0.99


def test_plain_numpy_reads_int8(stores: dict[str, Path]) -> None:
    groups = {dtype: zarr.open_group(stores[dtype] / "arrays.zarr/features/pool/ntk", mode="r") for dtype in STORED}
    sketch, scale = groups["int8"]["sketch"][:], groups["int8"]["scale"][:]
    exact = groups["float32"]["sketch"][:]
    assert (sketch.dtype, exact.dtype) == (np.int8, np.float32)
    assert np.isnan(scale).tolist() == np.isnan(groups["int8"]["norm"][:]).tolist() == [False] * (POOL - 1) + [True]
    np.testing.assert_allclose(
        sketch[:-1] * scale[:-1, None], exact[:-1], atol=0.5001 * float(np.abs(exact).max()) / 127
    )
    assert "scale" not in groups["float16"]


def test_formats_are_not_mixed_in_one_artefact(
    cli: Cli, stores: dict[str, Path], tmp_path: Path, model_dir: Path
) -> None:
    on = ["--kind", "ntk", "--model", model_dir, "--dim", "512", "--name", "domain"]
    ran = cli("featurize", stores["int8"], "--data", tmp_path / "domain.jsonl", *on)
    assert ran.code == 12
    assert 'store_dtype was "int8", is now "float16"' in ran.error_line
    assert "--store-dtype" in ran.error_line


def test_the_estimate_knows_the_format(cli: Cli, tmp_path: Path, model_dir: Path, stores: dict[str, Path]) -> None:
    on = ["--kind", "ntk", "--model", model_dir, "--dim", "512", "--name", "n", "--dry-run", "--json"]
    found = {}
    for dtype in STORED:
        ran = cli("featurize", tmp_path / "new", "--data", tmp_path / "domain.jsonl", *on, "--store-dtype", dtype)
        found[dtype] = json.loads(ran.out)["disk_bytes"]
    assert found == {"float16": 12 * (1024 + 9), "int8": 12 * (512 + 4 + 9), "float32": 12 * (2048 + 9)}
