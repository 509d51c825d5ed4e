"""The plan of a comparison: one budget, one training, every artefact made before it is read; refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ntkcli.commands import chain
from ntkcli.errors import UsageError
from ntkcli.steps.pipelines.arms_plan import ARMS, Budget, Plan, default_arms
from ntkcli.steps.pipelines.arms_steps import steps_of
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
    oracle="source=a",
    rounds=3,
    common={"max-length": 96},
).fitted(1000)


AT_ONCE = tuple(arm for arm in ARMS if arm != "rounds")


def test_every_command_parses_and_reads_what_an_earlier_one_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "dpt":
        (tmp_path / f"{name}.jsonl").touch()
    words = chain.vocabulary()
    words_alone = replace(PLAN, arms=("random", "bm25", "dsir"), prefix="b-")
    for plan in (
        PLAN,
        replace(PLAN, arms=default_arms("steps"), prefix="b-"),
        replace(PLAN, probes=("centred",)),
        words_alone,
    ):
        recipe = Recipe(Path("arms"), tuple(steps_of(plan)))
        chain.check_arguments(recipe, words)
        check_names(recipe)
        path = tmp_path / "recipe.toml"
        write_recipe(path, steps_of(plan), comment="two\nlines")
        assert path.read_text().startswith("# two\n# lines\n")
        found = read_recipe(path, words)
        assert [s.arguments(words) for s in found.steps] == [s.arguments(words) for s in steps_of(plan)]


def test_a_recipe_keeps_odd_names(tmp_path: Path) -> None:
    words = chain.vocabulary()
    odd = 'a "b" \\n\u20ac\t\u00e4.jsonl'
    plan = replace(PLAN, domain=odd, training={"lr": 3e-5})
    write_recipe(tmp_path / "r.toml", steps_of(plan))
    found = read_recipe(tmp_path / "r.toml", words)
    assert [s.arguments(words) for s in found.steps] == [s.arguments(words) for s in steps_of(plan)]
    assert "3e-05" in found.steps[0].arguments(words)


def test_an_arm_by_the_drop_of_the_loss() -> None:
    """Its features keep losses, and no domain is featurized by the kernel or compared with."""
    steps = list(steps_of(replace(PLAN, method="drop", centre=False, arms=("base", "selected"), probes=("sum",))))
    kernel = [step.values for step in steps if step.verb == "featurize" and step.values["kind"] == "ntk"]
    assert [(values["name"], values.get("losses")) for values in kernel] == [("pool", True)]
    (scored,) = (step.values for step in steps if step.verb == "score" and step.values["method"] == "drop")
    assert "domain" not in scored
    chain.check_arguments(Recipe(Path("arms"), tuple(steps)), chain.vocabulary())


def test_american_spellings_are_the_same_options(tmp_path: Path) -> None:
    words, path = chain.vocabulary(), tmp_path / "recipe.toml"
    scored = {"store": "s", "verb": "score", "pool": "p", "domain": "d", "method": "cosine", "name": "x"}
    step = "".join(f'{key} = "{value}"\n' for key, value in scored.items())
    path.write_text(f"[defaults]\ncenter = true\n[[step]]\n{step}[[step]]\n{step}centre = false\n", encoding="utf-8")
    recipe = read_recipe(path, words)
    chain.check_arguments(recipe, words)
    assert ["--centre" in each.arguments(words) for each in recipe.steps] == [True, False]


def test_all_arms_have_one_budget_and_one_training() -> None:
    steps = steps_of(PLAN)
    sizes = {step.name: step.values["n"] for step in steps if step.verb == "select"}
    assert {name for name, n in sizes.items() if n == 360} == {"coarse", "random-coarse"}
    assert {name: n for name, n in sizes.items() if n not in (90, 360)} == {
        "round1": 30, "round2": 30, "round3": 30, "left2": 330, "left3": 300
    }  # fmt: skip
    of_choosing = ("warmup", "after-round1", "after-round2")
    trainings = [step for step in steps if step.verb == "finetune" and step.name not in of_choosing]
    for step in trainings:
        settings = {k: v for k, v in step.values.items() if k not in ("name", "train", "seed", "seeds")}
        like = {option: f"selected.s{step.values.get('seed')}" for option in ("match-tokens", "match-steps")}
        stops = {option: {option: run} for option, run in like.items() if option[6:] in step.name}
        stop = next(iter(stops.values()), {"epochs": 3})
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


def test_rounds_go_on_from_each_other_and_leave_out_what_was_chosen() -> None:
    steps = {(step.verb, step.name): step.values for step in steps_of(PLAN)}
    first, second = (steps["finetune", f"after-round{i}"] for i in (1, 2))
    assert (first["init-adapter"], first["train"]) == ("warmup", ["d.jsonl", "round1"])
    assert (second["init-adapter"], second["train"]) == ("after-round1", ["d.jsonl", "round2"])
    assert steps["select", "left3"]["exclude"] == ["round1", "round2"]
    features = [step.values for step in steps_of(PLAN) if step.values.get("feature") == "ntk-round3"]
    assert [each["adapter"] for each in features if step_is_featurize(each)] == ["after-round2"] * 2
    assert steps["finetune", "rounds"]["train"] == ["d.jsonl", "round1", "round2", "round3"]
    uneven = replace(PLAN, budget=Budget(8, None, 20))
    chosen = {step.name: step.values for step in steps_of(uneven) if step.verb == "select"}
    assert [chosen[f"round{i}"]["n"] for i in (1, 2, 3)] == [3, 3, 2]
    shaped = replace(PLAN, training={"rank": 4, "lr": 0.1}, arm_training={"loss-per": "row", "hold-out": 0.1})
    own = next(step.values for step in steps_of(shaped) if step.name == "after-round1")
    assert ("rank" not in own, own["lr"], own["loss-per"], "hold-out" in own) == (True, 0.1, "row", False)


def step_is_featurize(values: Any) -> bool:
    return "data" in values


def test_the_arms_that_draw_draw_anew_for_each_seed() -> None:
    scores = {step.name: step.values for step in steps_of(PLAN) if step.verb == "score"}
    for arm in ("random-length", "preselect-random"):
        assert [scores[f"{arm}-s{seed}"]["seed"] for seed in (0, 3)] == [0, 3]
    assert [scores[f"random-s{seed}"]["seed"] for seed in (0, 3, 1, 2, 4)] == [0, 3, 1, 2, 4]  # five draws
    assert scores["random-length-s0"]["match-length"] == "picked"
    assert scores["preselect-random-s0"]["rows"] == "coarse"


def test_only_what_the_arms_need() -> None:
    alone = replace(PLAN, arms=("base", "domain"), budget=Budget(None, None, None))
    assert [step.verb for step in steps_of(alone)] == ["finetune", "eval"]
    embedding = replace(PLAN, arms=("random", "embedding"))
    assert "coarse" not in {step.name for step in steps_of(embedding)}


def test_words_and_chance_need_no_model() -> None:
    plan = replace(PLAN, arms=("random", "bm25"), pool_data={"on-error": "skip"})
    steps = steps_of(plan)
    assert [step.verb for step in steps][:4] == ["score", "select", "score", "select"]
    assert "warmup" not in {step.name for step in steps}
    found = {step.name: step.values for step in steps if step.verb == "score"}
    assert (found["bm25"]["pool"], found["bm25"]["domain"]) == ("pool=p.jsonl", "domain=d.jsonl")
    assert found["random-s0"]["pool"] == "pool=p.jsonl"
    assert {values["on-error"] for values in found.values()} == {"skip"}
    for other in (replace(plan, pool_data={"split": "test"}), replace(plan, budget=Budget(None, 5000, None))):
        assert {"warmup", "pool"} <= {step.name for step in steps_of(other)}  # these need what featurize writes


def test_a_token_budget_is_every_selections() -> None:
    tokens = steps_of(replace(PLAN, arms=AT_ONCE, budget=Budget(None, 5000, 360)))
    assert {s.values.get("token-budget") for s in tokens if s.verb == "select" and "coarse" not in s.name} == {5000}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arms": ("base", "randm")}, "--arms: 'randm' is not a valid arm. Give some of: base, domain"),
        ({"arms": ("base", "base")}, "--arms: base, base. Give each once"),
        (
            {"arms": ("domain-tokens",)},
            "domain-tokens is measured by an arm that takes rows from the pool. Add selected",
        ),
        ({"budget": Budget(None, None, None)}, "The budget is missing or given twice. Give -n ROWS"),
        ({"budget": Budget(5, 5, None)}, "The budget is missing or given twice"),
        ({"budget": Budget(None, 5, None)}, "--coarse is missing"),
        ({"budget": Budget(90, None, 90)}, "--coarse 90 leaves nothing to choose from for -n 90. Give more, as 360"),
        ({"arms": ("random-length",)}, "random-length is measured by the selected rows. Add selected"),
        ({"rounds": None}, "rounds takes a number of rounds. Give --rounds 3"),
        ({"rounds": 91}, "--rounds 91 of 90 rows: each round takes a row or more"),
        ({"rounds": 1}, "one round is the arm selected"),
        ({"equalise": "tokens"}, "--rounds shares out a number of rows"),
        ({"oracle": None}, "oracle takes rows known to be right. Give --oracle FILE"),
        ({"sizes": (10, 20)}, "The budget is missing or given twice"),
        ({"budget": Budget(None, None, None), "sizes": (10, 10)}, "--sizes 10,10: expected different whole numbers"),
        ({"equalise": "words"}, "--equalise words is not known. Give one of: steps, tokens, rows"),
        ({"equalise": "steps", "budget": Budget(None, 9, 360)}, "under --token-budget arms differ in rows"),
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
    with pytest.raises(UsageError, match=r"--baseline mixed is not one of the arms. Give one of: base"):
        PLAN.reference("mixed")


def test_draws_do_not_depend_on_the_seeds() -> None:
    for seeds, draws, expected in (
        ((0,), 5, (0, 1, 2, 3, 4)), ((7, 2), 4, (7, 2, 0, 1)), ((0, 1, 2), 2, (0, 1)), ((4, 5), None, (4, 5)),
    ):  # fmt: skip
        plan = replace(PLAN, seeds=seeds, draws=draws)
        assert plan.seeds_of("random") == expected
        assert [run for run in plan.runs() if run.startswith("random.s")] == [f"random.s{seed}" for seed in expected]
        assert plan.seeds_of("random-length") == seeds


def test_the_domain_is_repeated_until_it_is_seen_as_often_as_the_pool() -> None:
    for given, domain, expected in ((None, 30, 3), (None, 1000, 1), (None, None, 1), (None, 0, 1), (2, 30, 2)):
        plan = replace(PLAN, domain_repeat=given).fitted(1000, domain)
        assert plan.domain_repeat == expected
        reference = "d.jsonl" if expected == 1 else f"d.jsonl={expected}"
        trainings = [step for step in steps_of(plan) if step.verb == "finetune"]
        assert {step.values["train"][0] for step in trainings if step.name != "warmup"} == {reference}
        assert trainings[0].values["train"] == ["d.jsonl"]  # the warm-up, and so the features, stay
    assert replace(PLAN, domain_repeat=None, budget=Budget(90, None, None)).fitted(1000, 1).domain_repeat == 90
    assert replace(PLAN, domain_repeat=None, budget=Budget(900, None, None)).fitted(1000, 1).domain_repeat == 100


def test_equal_tokens_are_the_first_selections() -> None:
    for arms, first in ((AT_ONCE, "picked"), (("random", "bm25"), "random-s0"), (("oracle", "bm25"), "oracle-s0")):
        plan = replace(PLAN, arms=arms, equalise="tokens", probes=("centred",))
        steps = steps_of(plan)
        sizes = {step.name: step.values for step in steps if step.verb == "select" and "coarse" not in step.name}
        assert next(iter(sizes)) == first
        assert sizes[first]["n"] == 90
        for name, values in sizes.items():
            if name != first:
                assert ("n" in values, values["match-tokens"], values["tokens-of"]) == (False, first, "embed")
        assert "warmup" in {step.name for step in steps}  # the tokens are those of features


def test_the_oracle_draws_from_its_rows() -> None:
    plan = replace(PLAN, arms=("random", "oracle"), oracle="right.jsonl")
    drawn = {step.name: step.values for step in steps_of(plan) if step.verb == "select"}
    for seed in (0, 3):
        assert drawn[f"oracle-s{seed}"] == {
            **drawn[f"random-s{seed}"],
            "name": f"oracle-s{seed}",
            "only": ["right.jsonl"],
        }
    assert "oracle" in replace(PLAN, arms=()).arms
    assert "oracle" not in replace(PLAN, arms=(), oracle=None).arms


def test_sizes_share_all_but_what_a_size_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "dpt":
        (tmp_path / f"{name}.jsonl").touch()
    plan = replace(PLAN, arms=AT_ONCE, sizes=(300, 100), budget=Budget(None, None, None)).fitted(5000, 10)
    steps = steps_of(plan)
    names = [(step.verb, step.name, step.values.get("feature")) for step in steps]
    assert len(set(map(str, (step.values for step in steps)))) == len(steps)
    assert plan.budget.coarse == 1200
    for size in (100, 300):
        alone = steps_of(replace(plan, sizes=(), budget=Budget(size, None, 1200)))
        found = {(step.verb, step.name) for step in steps}
        for step in alone[:-1]:
            sized = step.verb in ("select", "finetune") and step.name not in (
                "warmup",
                "domain",
                "coarse",
                "random-coarse",
            )
            if sized and ".s" in step.name:
                arm, _, seed = step.name.rpartition(".s")
                name = f"{arm}-n{size}.s{seed}"
            elif sized and step.name.rpartition("-s")[2].isdigit():
                arm, _, seed = step.name.rpartition("-s")
                name = f"{arm}-n{size}-s{seed}"
            else:
                name = f"{step.name}-n{size}" if sized else step.name
            if step.verb == "score" and "length" in step.name:
                name = name.replace("length", f"length-n{size}")
            assert (step.verb, name) in found, name
    assert names.count(("finetune", "domain", None)) == 1
    assert plan.names()[:3] == ["base", "domain", "domain-steps-n100"]
    assert plan.reference(None) == "random-n300"
    assert plan.reference("bm25") == "bm25-n300"
    check_names(Recipe(Path("arms"), tuple(steps)))


def test_the_papers_arms_are_those_of_before() -> None:
    """Old stores' artefacts are found: the same names and training, whatever the defaults have become."""
    old = replace(PLAN, arms=(), oracle=None, rounds=None, equalise="rows", draws=None, domain_repeat=1)
    assert old.arms == (
        "base", "domain", "domain-tokens", "random", "random-length", "embedding", "preselect-random", "bm25",
        "selected",
    )  # fmt: skip
    assert [run for run in old.runs() if run.startswith("random.s")] == ["random.s0", "random.s3"]
