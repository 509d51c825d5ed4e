"""`score --method METHOD=NAME ...`, and recipes whose score steps share a pass over the features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ntkcli.steps.pipelines.merging import merge_scores
from ntkcli.steps.pipelines.recipe import Step
from tests.commands.conftest import Cli
from tests.scoring.kit import make_store

WORDS = ("--pool", "pool", "--domain", "domain", "--feature", "embed")


def test_a_list_of_several_and_an_object_of_one(cli: Cli, tmp_path: Path) -> None:
    path, *_ = make_store(tmp_path)
    one = cli("score", path, *WORDS, "--method", "cosine", "--name", "one", "--json")
    named = cli("score", path, *WORDS, "--method", "cosine=one", "--json")
    assert json.loads(one.out) == json.loads(named.out)
    assert json.loads(one.out)["artefact"] == "scores/one"
    both = cli("score", path, *WORDS, "--method", "mean=a", "--method", "gist=b", "--subspace", "2", "--json")
    found = json.loads(both.out)
    assert [(each["artefact"], each["method"], each["scored"]) for each in found] == [
        ("scores/a", "mean", 59),
        ("scores/b", "gist", 59),
    ]
    again = cli("score", path, *WORDS, "--method", "mean=a", "--method", "votes=c")
    assert again.out.splitlines()[0].startswith("scores/a: 59 of 60 rows scored by mean")
    assert again.out.splitlines()[1].startswith("scores/c: 59 of 60 rows scored by votes")
    assert "scores/a is finished already" in again.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "mean=a", "--method", "cosine"], "Give --method cosine=NAME"),
        (["--method", "mean=a", "--name", "b"], "Leave --name out"),
        (["--method", "mean=a", "--method", "cosine=a"], "the name a is given twice"),
        (["--method", "mean"], "--name is missing"),
        (["--method", "median=a"], "'median' is not one of 'votes', 'mean'"),
        (["--method", "mean=a/b", "--method", "cosine=c"], "'a/b'"),
    ],
)
def test_names_that_are_missing_or_too_many(cli: Cli, tmp_path: Path, words: list[str], told: str) -> None:
    path, *_ = make_store(tmp_path)
    ran = cli("score", path, *WORDS, *words)
    assert ran.code == 2
    assert told in " ".join(ran.err.split())
    assert not (path / "arrays.zarr/scores").exists()


def test_steps_that_read_the_same_become_one() -> None:
    same = {"pool": "pool", "domain": "domain", "feature": "embed"}
    steps = [
        Step("score", "s", {**same, "method": "votes", "name": "stage1"}),
        Step("select", "s", {"score": "stage1", "n": 4, "name": "coarse"}),
        Step("score", "s", {**same, "method": "cosine", "name": "near"}),
        Step("score", "s", {**same, "method": "cosine", "centre": True, "name": "centred"}),
        Step("score", "s", {**same, "method": "bm25", "name": "words"}),
        Step("score", "s", {**same, "method": ["rds=turns", "max=high"]}),
        Step("score", "s", {**same, "method": "cosine", "name": "again"}),
        Step("score", "t", {**same, "method": "mean", "name": "elsewhere"}),
    ]
    found = merge_scores(steps)
    assert found[0].values == {**same, "method": ["votes=stage1", "cosine=near", "rds=turns", "max=high"]}
    assert found[1:] == [steps[i] for i in (1, 3, 4, 6, 7)]


def test_a_recipe_runs_them_as_one(cli: Cli, tmp_path: Path) -> None:
    path, *_ = make_store(tmp_path)
    step = f'[[step]]\nverb = "score"\nstore = "{path}"\npool = "pool"\ndomain = "domain"\nfeature = "embed"\n'
    chosen = f'[[step]]\nverb = "select"\nstore = "{path}"\nscore = "b"\nn = 3\nname = "picked"\n'
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'{step}method = "mean"\nname = "a"\n{step}method = "cosine"\nname = "b"\n{chosen}')
    shown = cli("run", recipe, "--dry-run").out
    assert shown.count("ntksel score") == 1
    assert "--method mean=a --method cosine=b" in shown
    ran = json.loads(cli("run", recipe, "--json").out)
    assert [each["artefact"] for each in ran["steps"][0]["result"]] == ["scores/a", "scores/b"]
    written = tmp_path / "named.toml"
    written.write_text(f'{step}method = ["mean=a", "cosine=b"]\n{chosen}')
    again = json.loads(cli("run", written, "--json").out)
    assert again["steps"][0]["result"] == ran["steps"][0]["result"]
