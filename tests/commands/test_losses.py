"""Losses from the command line: kept by featurize, scored, selected from, and rebuilt by the report's commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import zarr

from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows


def test_losses_from_features_to_a_selection(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    store = tmp_path / "med"
    pool, domain = (
        write_jsonl("pool.jsonl", prompt_rows(24, seed=1)),
        write_jsonl("domain.jsonl", prompt_rows(6, seed=2)),
    )
    both = ("--pool", "pool", "--domain", "domain")
    on = ("--model", model_dir, "--adapter", "warm")
    features = ("featurize", store, "--data", pool, "--name", "pool", *on, "--kind", "ntk", "--dim", "64")
    commands: list[tuple[str | Path, ...]] = [
        ("finetune", store, "--model", model_dir, "--train", domain, "--name", "warm", "--rank", "2", "--lr", "1e-2",
         "--epochs", "4", "--batch-size", "2"),
        (*features, "--losses"),
        ("featurize", store, "--data", domain, "--name", "domain", *on, "--kind", "ntk", "--dim", "64"),
        ("score", store, "--pool", "pool", "--method", "drop", "--name", "drop"),
        ("score", store, *both, "--method", "cosine", "--name", "plain"),
        ("score", store, *both, "--method", "cosine", "--whiten", "0.2", "--residual", "--name", "weighed"),
        ("select", store, "--score", "drop", "-n", "8", "--name", "coarse"),
        (*features, "--losses", "--rows", "coarse", "--feature", "few", "--max-length", "50"),
        ("score", store, "--pool", "pool", "--method", "drop", "--feature", "few", "--rows", "coarse",
         "--name", "some"),
        ("select", store, "--score", "weighed", "-n", "4", "--name", "picked"),
    ]  # fmt: skip
    for command in commands:
        ran = cli(*command)
        assert ran.code == 0, ran.err
    arrays = zarr.open_group(store / "arrays.zarr", mode="r")
    kept, chosen = arrays["features/pool/ntk"], arrays["selections/coarse/row"][:]
    before, loss = kept["loss_before"][:].astype(np.float64), kept["loss"][:].astype(np.float64)
    expected = (before - loss) / before
    np.testing.assert_allclose(arrays["scores/drop/score"][:], expected, rtol=1e-5)
    assert set(chosen) == set(np.argsort(-expected)[:8])
    # Features of some rows score these rows alone, and no others can be asked of them.
    some = arrays["scores/some/score"][:]
    assert set(np.flatnonzero(~np.isnan(some))) == set(chosen)
    few = arrays["features/pool/few"]
    assert few["row"][:].tolist() == sorted(chosen.tolist())
    np.testing.assert_allclose(some[few["row"][:]], 1 - few["loss"][:] / few["loss_before"][:], rtol=1e-5)
    ran = cli("score", store, "--pool", "pool", "--method", "drop", "--feature", "few", "--name", "all")
    assert ran.code == 0, ran.err
    assert json.loads(cli("score", store, "--pool", "pool", "--method", "drop", "--feature", "few", "--name", "all",
                          "--json").out)["scored"] == 8  # fmt: skip
    # The report names commands that find all of it finished.
    assert cli("report", store, "--md", tmp_path / "report.md").code == 0
    lines = [line.strip() for line in (tmp_path / "report.md").read_text().splitlines() if "    ntksel " in line]
    again = [shlex.split(line)[1:] for line in lines if line.split()[1] in ("featurize", "score")]
    assert len(again) == 8
    for words in again:
        ran = cli(*words)
        assert ran.code == 0, f"{shlex.join(words)}: {ran.err}"
        assert "is finished already" in ran.err


def test_what_is_refused(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """Options in each other's way are refused with the one to give."""
    store, pool = tmp_path / "med", write_jsonl("pool.jsonl", prompt_rows(6, seed=1))
    command = ("featurize", store, "--data", pool, "--name", "pool", "--model", model_dir, "--kind", "embed")
    assert cli(*command).code == 0
    ran = cli(*command, "--losses")
    assert ran.code == 12  # another spec: under another name, or not at all
    for more, text in (
        (("--method", "drop", "--feature", "embed"), "ntksel featurize ... --name pool --losses"),
        (("--method", "mean", "--domain", "pool", "--feature", "embed", "--residual"), "--losses"),
        (("--method", "exact", "--domain", "pool", "--residual"), "--residual does not apply to --method exact"),
    ):
        ran = cli("score", store, "--pool", "pool", "--name", "x", *more)
        assert ran.code == 2
        assert text in ran.error_line
