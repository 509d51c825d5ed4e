"""The chain of the two stages, end to end on a tiny model, as a shell script would run it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows

POOL, DOMAIN, ITEMS = 90, 20, 30


@pytest.fixture
def files(write_jsonl: Writer) -> dict[str, Path]:
    return {
        "pool": write_jsonl("pool.jsonl", prompt_rows(POOL, seed=1, source="general")),
        "domain": write_jsonl("domain.jsonl", prompt_rows(DOMAIN, seed=2)),
        "test": write_jsonl("test.jsonl", choice_rows(ITEMS)),
    }


def chain(store: Path, model: Path, files: dict[str, Path]) -> list[list[str | Path]]:
    on = ["--model", model, "--adapter", "warmup"]
    both = ["--pool", "pool", "--domain", "domain"]
    return [
        ["finetune", store, "--model", model, "--train", files["domain"], "--name", "warmup", "--epochs", "1"],
        ["featurize", store, "--data", files["domain"], "--name", "domain", "--kind", "embed", *on],
        ["featurize", store, "--data", files["pool"], "--name", "pool", "--kind", "embed", *on],
        ["score", store, *both, "--method", "votes", "--feature", "embed", "--name", "stage1"],
        ["select", store, "--score", "stage1", "-n", "40", "--name", "coarse"],
        ["featurize", store, "--data", files["domain"], "--name", "domain", "--kind", "ntk", *on],
        ["featurize", store, "--data", files["pool"], "--name", "pool", "--kind", "ntk", *on, "--rows", "coarse"],
        ["score", store, *both, "--method", "mean", "--rows", "coarse", "--name", "stage2"],
        ["select", store, "--score", "stage2", "-n", "10", "--name", "picked", "--export", store / "picked.jsonl"],
        ["finetune", store, "--model", model, "--train", files["domain"], "--train", "picked", "--name", "mixed"],
        ["eval", store, "--model", model, "--task", files["test"], "--name", "test", "--run", "base", "--run", "mixed"],
    ]


def test_chain(cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path]) -> None:
    store = tmp_path / "med"
    commands = chain(store, model_dir, files)
    results = []
    for command in commands:
        ran = cli(*command, "--json")
        assert ran.code == 0, ran.err
        results.append(json.loads(ran.out))
    arrays = zarr.open_group(store / "arrays.zarr", mode="r")

    votes = arrays["scores/stage1/score"][:]
    assert votes.sum() == DOMAIN * 10  # each domain row votes for 10 rows: the least there are by default
    coarse = arrays["selections/coarse/row"][:]
    assert len(set(coarse)) == 40
    assert votes[coarse].min() >= np.delete(votes, coarse).max()

    features = arrays["features/pool/ntk"]
    assert (features["row"][:] == np.sort(coarse)).all()
    unit, norm = features["sketch"][:].astype(np.float64), features["norm"][:].astype(np.float64)
    domain = arrays["features/domain/ntk"]
    mean = (domain["norm"][:][:, None] * domain["sketch"][:].astype(np.float64)).mean(axis=0)
    expected = np.full(POOL, np.nan)
    expected[features["row"][:]] = norm * (unit @ mean)
    np.testing.assert_allclose(arrays["scores/stage2/score"][:], expected, rtol=1e-4)

    exported = [json.loads(line) for line in (store / "picked.jsonl").read_text().splitlines()]
    pool = {row["id"]: row for row in map(json.loads, files["pool"].read_text().splitlines())}
    assert [row["ntksel_rank"] for row in exported] == list(range(1, 11))
    best = np.argsort(-np.nan_to_num(expected, nan=-np.inf))[:10]
    assert [row["id"] for row in exported] == [f"1-{i}" for i in best]
    for row in exported:
        assert {k: v for k, v in row.items() if not k.startswith("ntksel_")} == pool[row["id"]]

    evaluation = results[-1]
    assert [score["arm"] for score in evaluation["scores"]] == ["base", "mixed"]
    base = arrays["evals/test/base"]
    assert evaluation["scores"][0]["value"] == pytest.approx(float(base["correct"][:].mean()))
    assert (base["prediction"][:] == base["loglik"][:].argmax(axis=1)).all()
    steps = arrays["runs/mixed/loss"]
    assert steps.shape == (3 * 2,)  # 30 rows in batches of 16, 3 epochs
    assert np.isfinite(steps[:]).all()

    for command, before in zip(commands, results, strict=True):
        ran = cli(*command, "--json")
        assert ran.code == 0
        after = json.loads(ran.out)
        after.pop("computed", None), before.pop("computed", None)
        after.pop("tokens", None), before.pop("tokens", None)
        assert after == before, "a finished command run again must find the same"


def test_centre_and_cosine_against_numpy(cli: Cli, tmp_path: Path, model_dir: Path, files: dict[str, Path]) -> None:
    store = tmp_path / "med"
    for data in ("pool", "domain"):
        command = ["featurize", store, "--data", files[data], "--name", data, "--kind", "ntk", "--model", model_dir]
        assert cli(*command, "--dim", "64", "--part-rows", "17").code == 0
    both = ["--pool", "pool", "--domain", "domain"]
    arrays = zarr.open_group(store / "arrays.zarr", mode="r")
    unit = {d: arrays[f"features/{d}/ntk/sketch"][:].astype(np.float64) for d in ("pool", "domain")}
    raw = {d: unit[d] * arrays[f"features/{d}/ntk/norm"][:].astype(np.float64)[:, None] for d in unit}

    def rows_to_length_one(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    a, x = (rows_to_length_one(unit[d] - unit["pool"].mean(axis=0)) for d in ("domain", "pool"))
    expected = {
        "mean": raw["pool"] @ raw["domain"].mean(axis=0),
        "mean --centre": (raw["pool"] - raw["pool"].mean(axis=0))
        @ (raw["domain"] - raw["pool"].mean(axis=0)).mean(axis=0),
        "cosine": unit["pool"] @ unit["domain"].mean(axis=0),
        "cosine --center": x @ a.mean(axis=0),
    }
    for i, (method, values) in enumerate(expected.items()):
        assert cli("score", store, *both, "--method", *method.split(), "--name", f"s{i}").code == 0
        np.testing.assert_allclose(arrays[f"scores/s{i}/score"][:], values, rtol=2e-4, atol=2e-4 * np.abs(values).max())

    for options, side_a, side_x in (([], unit["domain"], unit["pool"]), (["--centre"], a, x)):
        name = f"votes{len(options)}"
        assert cli("score", store, *both, "--method", "votes", "-k", "7", "--name", name, *options).code == 0
        votes = np.zeros(POOL)
        for row in side_a @ side_x.T:
            votes[np.argsort(-row, kind="stable")[:7]] += 1
        assert (arrays[f"scores/{name}/score"][:] == votes).all()


def test_random_scores_do_not_depend_on_the_pools_order(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    rows = prompt_rows(30)
    found = {}
    for name, order in (("a", rows), ("b", rows[::-1])):
        data = write_jsonl(f"{name}.jsonl", order)
        cli("featurize", tmp_path / "s", "--data", data, "--name", name, "--kind", "embed", "--model", model_dir)
        cli("score", tmp_path / "s", "--pool", name, "--method", "random", "--seed", "3", "--name", name)
        arrays = zarr.open_group(tmp_path / "s" / "arrays.zarr", mode="r")
        found[name] = dict(zip(arrays[f"datasets/{name}/row_id"][:], arrays[f"scores/{name}/score"][:], strict=True))
    assert found["a"] == found["b"]
    assert len(set(found["a"].values())) == 30
