"""`ntksel run --ray`: a recipe's steps are shared, to the bytes of one process; a second run computes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.conftest import Cli, cli
from tests.conftest import Writer, choice_rows, prompt_rows
from tests.steps.cluster.kit import Inline, arrays_of, inline

__all__ = ["cli", "inline"]
RECIPE = """
store = "{store}"

[defaults]
model = "{model}"
epochs = 1
rank = 2

[[step]]
verb = "finetune"
train = "{domain}"
name = "warmup"

[[step]]
verb = "featurize"
data = "{domain}"
name = "domain"
kind = "ntk"
dim = 16
part-rows = 4
adapter = "warmup"

[[step]]
verb = "featurize"
data = "{pool}"
name = "pool"
kind = "ntk"
dim = 16
part-rows = 4
adapter = "warmup"

[[step]]
verb = "score"
pool = "pool"
domain = "domain"
method = "cosine"
name = "near"

[[step]]
verb = "select"
score = "near"
n = 4
name = "picked"

[[step]]
verb = "finetune"
train = ["{domain}", "picked"]
seeds = [0, 1]
name = "mixed"

[[step]]
verb = "eval"
run = ["warmup", "mixed.s0", "mixed.s1"]
task = "{test}"
name = "e"
"""


@pytest.fixture
def files(write_jsonl: Writer) -> dict[str, Path]:
    return {
        "pool": write_jsonl("pool.jsonl", prompt_rows(20, seed=1)),
        "domain": write_jsonl("domain.jsonl", prompt_rows(9, seed=2)),
        "test": write_jsonl("test.jsonl", choice_rows(12)),
    }


@pytest.mark.slow
def test_a_recipe_is_shared(
    cli: Cli, inline: list[Inline], tmp_path: Path, model_dir: Path, files: dict[str, Path]
) -> None:
    recipes = {name: tmp_path / f"{name}.toml" for name in ("one", "many")}
    for name, path in recipes.items():
        path.write_text(RECIPE.format(store=tmp_path / name, model=model_dir, **files))
    one = cli("run", recipes["one"], "--json")
    many = cli("run", recipes["many"], "--json", "--ray", "local")
    assert one.code == many.code == 0, one.err + many.err
    assert arrays_of(tmp_path / "one") == arrays_of(tmp_path / "many")
    done = [json.loads(ran.out)["steps"] for ran in (one, many)]
    assert [step["result"]["scores"] for step in done[1] if "scores" in step["result"]] == [
        step["result"]["scores"] for step in done[0] if "scores" in step["result"]
    ]
    (pool,) = inline
    assert sum(job.whole for job in pool.jobs) == 3  # the warm-up, and a training per seed
    assert len(pool.jobs) > 3 + 2 * 2
    again = cli("run", recipes["many"], "--json", "--ray", "local")
    assert again.code == 0, again.err
    assert arrays_of(tmp_path / "one") == arrays_of(tmp_path / "many")
    results = [step["result"] for step in json.loads(again.out)["steps"]]
    assert {each["computed"] for each in results if "computed" in each} == {0}
