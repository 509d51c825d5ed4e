"""The plan of a comparison: one budget, one training, every artefact made before it is read; refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ntkcli.commands import chain
from ntkcli.errors import UsageError
from ntkcli.steps.pipelines.arms_plan import ARMS, DEFAULT, Budget, Plan
from ntkcli.steps.pipelines.recipe import Recipe, read_recipe, write_recipe
from ntkcli.steps.pipelines.recipe_check import check_names

PLAN = Plan(
    store="none/med",
    model="M",
    domain="d.jsonl",
    pool="p.jsonl",
    tasks=("t.jsonl",),
    name="arms",
    budget=Budget(90, None, None),
    arms=tuple(ARMS),
    seeds=(0, 3),
    probes=("centred", "sum"),
    common={"max-length": 96},
).fitted(1000)


def test_every_command_parses_and_reads_what_an_earlier_one_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "dpt":
        (tmp_path / f"{name}.jsonl").touch()
    words = chain.vocabulary()
    words_alone = replace(PLAN, arms=("random", "bm25", "dsir"), prefix="b-")
    for plan in (PLAN, replace(PLAN, arms=DEFAULT, prefix="b-"), replace(PLAN, probes=("centred",)), words_alone):
        recipe = Recipe(Path("arms"), tuple(plan.steps()))
        chain.check_arguments(recipe, words)
        check_names(recipe)
        path = tmp_path / "recipe.toml"
        write_recipe(path, plan.steps(), comment="two\nlines")
        assert path.read_text().startswith("# two\n# lines\n")
        found = read_recipe(path, words)
        assert [s.arguments(words) for s in found.steps] == [s.arguments(words) for s in plan.steps()]


def test_a_recipe_keeps_odd_names(tmp_path: Path) -> None:
    words = chain.vocabulary()
    odd = 'a "b" \\n\u20ac\t\u00e4.jsonl'
    plan = replace(PLAN, domain=odd, training={"lr": 3e-5})
    write_recipe(tmp_path / "r.toml", plan.steps())
    found = read_recipe(tmp_path / "r.toml", words)
    assert [s.arguments(words) for s in found.steps] == [s.arguments(words) for s in plan.steps()]
    assert "3e-05" in found.steps[0].arguments(words)


def test_american_spellings_are_the_same_options(tmp_path: Path) -> None:
    words, path = chain.vocabulary(), tmp_path / "recipe.toml"
    scored = {"store": "s", "verb": "score", "pool": "p", "domain": "d", "method": "cosine", "name": "x"}
    step = "".join(f'{key} = "{value}"\n' for key, value in scored.items())
    path.write_text(f"[defaults]\ncenter = true\n[[step]]\n{step}[[step]]\n{step}centre = false\n", encoding="utf-8")
    recipe = read_recipe(path, words)
    chain.check_arguments(recipe, words)
    assert ["--centre" in each.arguments(words) for each in recipe.steps] == [True, False]


def test_all_arms_have_one_budget_and_one_training() -> None:
    steps = PLAN.steps()
    sizes = {step.name: step.values["n"] for step in steps if step.verb == "select"}
    assert {name for name, n in sizes.items() if n == 360} == {"coarse", "random-coarse"}
    assert set(sizes.values()) == {90, 360}
    trainings = [step for step in steps if step.verb == "finetune" and step.name != "warmup"]
    for step in trainings:
        settings = {k: v for k, v in step.values.items() if k not in ("name", "train", "seed", "seeds")}
        stop = {"match-tokens": f"selected.s{step.values.get('seed')}"} if "tokens" in step.name else {"epochs": 3}
        assert settings == {"model": "M", "max-length": 96, **stop}
        assert step.values["train"][0] == "d.jsonl"
    runs = [
        run
        for step in trainings
        for run in (
            [f"{step.name}.s{seed}" for seed in step.values["seeds"]] if "seeds" in step.values else [step.name]
        )
    ]
    assert sorted(["base", *runs]) == sorted(steps[-1].values["run"])
    assert len(PLAN.names()) == len(ARMS) + 1  # selected twice, once a probe


def test_the_arms_that_draw_draw_anew_for_each_seed() -> None:
    scores = {step.name: step.values for step in PLAN.steps() if step.verb == "score"}
    for arm in ("random", "random-length", "preselect-random"):
        assert [scores[f"{arm}-s{seed}"]["seed"] for seed in (0, 3)] == [0, 3]
    assert scores["random-length-s0"]["match-length"] == "picked"
    assert scores["preselect-random-s0"]["rows"] == "coarse"


def test_only_what_the_arms_need() -> None:
    alone = replace(PLAN, arms=("base", "domain"), budget=Budget(None, None, None))
    assert [step.verb for step in alone.steps()] == ["finetune", "eval"]
    embedding = replace(PLAN, arms=("random", "embedding"))
    assert "coarse" not in {step.name for step in embedding.steps()}


def test_words_and_chance_need_no_model() -> None:
    plan = replace(PLAN, arms=("random", "bm25"), pool_data={"on-error": "skip"})
    steps = plan.steps()
    assert [step.verb for step in steps][:4] == ["score", "select", "score", "select"]
    assert "warmup" not in {step.name for step in steps}
    found = {step.name: step.values for step in steps if step.verb == "score"}
    assert (found["bm25"]["pool"], found["bm25"]["domain"]) == ("pool=p.jsonl", "domain=d.jsonl")
    assert found["random-s0"]["pool"] == "pool=p.jsonl"
    assert {values["on-error"] for values in found.values()} == {"skip"}
    for other in (replace(plan, pool_data={"split": "test"}), replace(plan, budget=Budget(None, 5000, None))):
        assert {"warmup", "pool"} <= {step.name for step in other.steps()}  # these need what featurize writes


def test_a_token_budget_is_every_selections() -> None:
    tokens = replace(PLAN, budget=Budget(None, 5000, 360)).steps()
    assert {s.values.get("token-budget") for s in tokens if s.verb == "select" and "coarse" not in s.name} == {5000}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arms": ("base", "randm")}, "--arms: 'randm' is not a valid arm. Give some of: base, domain"),
        ({"arms": ("base", "base")}, "--arms: base, base. Give each once"),
        ({"arms": ("domain-tokens",)}, "domain-tokens is measured by the selected rows. Add selected"),
        ({"budget": Budget(None, None, None)}, "The budget is missing or given twice. Give -n ROWS"),
        ({"budget": Budget(5, 5, None)}, "The budget is missing or given twice"),
        ({"budget": Budget(None, 5, None)}, "--coarse is missing"),
        ({"budget": Budget(90, None, 90)}, "--coarse 90 leaves nothing to choose from for -n 90. Give more, as 360"),
        ({"seeds": ()}, "--seeds: nothing"),
    ],
)
def test_refusals(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        replace(PLAN, **changes)  # type: ignore[arg-type]
    assert told in str(caught.value)


def test_the_pre_selection_fits_the_pool() -> None:
    plan = replace(PLAN, budget=Budget(90, None, None))
    assert plan.fitted(1000).budget.coarse == 360
    assert plan.fitted(200).budget.coarse == 200
    with pytest.raises(UsageError, match=r"-n 90: the pool has 90 rows"):
        plan.fitted(90)
    with pytest.raises(UsageError, match=r"--coarse 360: the pool has 300 rows"):
        PLAN.fitted(300)


def test_the_baseline() -> None:
    assert PLAN.reference(None) == "random"
    assert replace(PLAN, arms=("base", "domain")).reference(None) == "domain"
    assert replace(PLAN, prefix="b-").reference("b-bm25") == "b-bm25"
    with pytest.raises(UsageError, match=r"--baseline mixed is none of the arms. Give one of: base"):
        PLAN.reference("mixed")
