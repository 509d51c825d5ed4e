"""LESS end to end on a tiny model: Adam's steps for the pool, plain gradients for the domain, several checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from safetensors import safe_open

from tests.commands.conftest import Cli
from tests.conftest import prompt_rows

Files = dict[str, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("data")
    sets = {
        "pool": prompt_rows(30, seed=1),
        "domain": [{**row, "source": "ab"[i % 2]} for i, row in enumerate(prompt_rows(8, seed=2))],
    }
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: folder / f"{name}.jsonl" for name in sets}


def warm_up(cli: Cli, store: Path, model: Path, files: Files, run: str, *more: str) -> None:
    command = ("finetune", store, "--model", model, "--train", files["domain"], "--name", run, "--rank", "4")
    ran = cli(*command, "--batch-size", "4", *more)
    assert ran.code == 0, ran.err


def features(cli: Cli, store: Path, model: Path, data: Path, run: str, *more: str) -> int:
    common = ("--data", data, "--name", data.stem, "--kind", "loss", "--model", model, "--dim", "512")
    return cli("featurize", store, *common, "--adapter", run, *more).code


def test_less_is_the_weighted_cosine_with_adams_steps(cli: Cli, tmp_path: Path, model_dir: Path, files: Files) -> None:
    store = tmp_path / "med"
    for run, epochs in (("w1", "1"), ("w2", "3")):
        warm_up(cli, store, model_dir, files, run, "--keep-optimizer", "--epochs", epochs)
        assert features(cli, store, model_dir, files["domain"], run, "--feature", run) == 0
        assert features(cli, store, model_dir, files["pool"], run, "--feature", run, "--adam") == 0
    both = ("--pool", "pool", "--domain", "domain", "--method", "less")
    command = ("score", store, *both, "--feature", "w1", "--feature", "w2", "--group-by", "source", "--name", "x")
    ran = cli(*command, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["scored"] == 30
    arrays = zarr.open_group(store / "arrays.zarr", mode="r")
    rates, cosines = [], []
    for run in ("w1", "w2"):
        x, a = (arrays[f"features/{data}/{run}/sketch"][:].astype(np.float64) for data in ("pool", "domain"))
        cosines.append(np.stack([(x @ a[i::2].T).mean(axis=1) for i in (0, 1)]))
        with safe_open(store / "adapters" / run / "optimizer.safetensors", framework="np") as file:
            rates.append(float(file.metadata()["mean_learning_rate"]))
    weights = np.array(rates) / sum(rates)
    expected = np.tensordot(weights, cosines, axes=1).max(axis=0)
    np.testing.assert_allclose(arrays["scores/x/score"][:], expected, atol=1e-6)
    # Adam's steps and plain gradients share no mean that both could lose: neither a score nor a selection is centred.
    for command in (
        ("score", store, *both, "--feature", "w1", "--centre", "--name", "c"),
        ("select", store, "--score", "x", "-n", "5", "--method", "herding", "--centre", "--name", "c"),
    ):
        ran = cli(*command)
        assert ran.code == 2
        assert "features/pool/w1 holds Adam's steps" in ran.error_line
        assert "Leave --centre out" in ran.error_line
    # What was made of both sides can be selected from and explained.
    assert cli("select", store, "--score", "x", "-n", "5", "--method", "round-robin", "--name", "y").code == 0
    assert len(json.loads(cli("explain", store, "y", "1-0", "--json").out)["nearest"]) == 3
    # A score by another method would compare what was not made alike, and says so.
    ran = cli("score", store, "--pool", "pool", "--domain", "domain", "--method", "cosine", "--feature", "w1",
              "--name", "z")  # fmt: skip
    assert ran.code != 0
    assert "adam" in ran.error_line


def test_less_without_moments_is_of_plain_gradients_and_says_so(
    cli: Cli, tmp_path: Path, model_dir: Path, files: Files
) -> None:
    store = tmp_path / "med"
    warm_up(cli, store, model_dir, files, "w", "--epochs", "1")
    for data in ("pool", "domain"):
        assert features(cli, store, model_dir, files[data], "w") == 0
    ran = cli("score", store, "--pool", "pool", "--domain", "domain", "--method", "less", "--name", "x")
    assert ran.code == 0, ran.err
    assert "plain gradients" in ran.err
    assert "--keep-optimizer" in ran.err
    arrays = zarr.open_group(store / "arrays.zarr", mode="r")
    x, a = (arrays[f"features/{data}/loss/sketch"][:].astype(np.float64) for data in ("pool", "domain"))
    np.testing.assert_allclose(arrays["scores/x/score"][:], (x @ a.T).mean(axis=1), atol=1e-6)
    # Gradients of both sides centred on the pool's mean: each against a dense product.
    ran = cli("score", store, "--pool", "pool", "--domain", "domain", "--method", "less", "--centre", "--name", "c")
    assert ran.code == 0, ran.err
    mean = x.mean(axis=0)
    x, a = (side - mean for side in (x, a))
    cosines = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (a / np.linalg.norm(a, axis=1, keepdims=True)).T
    scores = zarr.open_group(store / "arrays.zarr", mode="r")["scores/c/score"][:]
    np.testing.assert_allclose(scores, cosines.mean(axis=1), atol=1e-5)


def test_what_less_and_adam_refuse(cli: Cli, tmp_path: Path, model_dir: Path, files: Files) -> None:
    store = tmp_path / "med"
    warm_up(cli, store, model_dir, files, "w", "--epochs", "1")
    common = ("--model", model_dir, "--dim", "64")
    pool = ("featurize", store, "--data", files["pool"], "--name", "pool", *common, "--adam")
    for more, text in (
        (("--kind", "loss"), "--keep-optimizer"),
        (("--kind", "loss", "--adapter", "w"), "--keep-optimizer"),
        (("--kind", "ntk", "--adapter", "w"), "Give --kind loss"),
    ):
        ran = cli(*pool, *more)
        assert ran.code == 2, ran.err
        assert text in ran.error_line
    warm_up(cli, store, model_dir, files, "w", "--epochs", "1", "--keep-optimizer")
    for data in ("pool", "domain"):
        assert features(cli, store, model_dir, files[data], "w", "--adam") == 0
        assert features(cli, store, model_dir, files[data], "w", "--feature", "plain") == 0
        ran = cli("featurize", store, "--data", files[data], "--name", data, "--kind", "embed", *common)
        assert ran.code == 0, ran.err
    both = ("score", store, "--pool", "pool", "--domain", "domain", "--name", "x")
    for more, text in (
        (("--method", "less"), "features/domain/loss holds Adam's steps"),
        (("--method", "less", "--feature", "embed"), "of kind embed"),
        (("--method", "less", "--feature", "plain", "--feature", "plain"), "twice"),
        (("--method", "cosine", "--feature", "plain", "--feature", "embed"), "a second --feature does not apply"),
    ):
        ran = cli(*both, *more)
        assert ran.code == 2, ran.err
        assert text in ran.error_line
