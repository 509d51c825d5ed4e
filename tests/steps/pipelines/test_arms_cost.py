"""What `arms --dry-run` reports: tokens against a plain count, and power from the spread that the store has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ntkcli.data import DataFile, Encoder, Row
from ntkcli.engine.models.loading import load_tokenizer
from ntkcli.identity import resolve_model
from ntkcli.statistics.validation import DETECTABLE
from ntkcli.steps.evaluation.evaluate import evaluate
from ntkcli.steps.pipelines.arms_cost import estimate_arms
from ntkcli.steps.pipelines.arms_plan import Budget, Plan
from ntkcli.steps.pipelines.arms_steps import steps_of
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune_seeds
from tests.conftest import Writer, choice_rows, prompt_rows


@pytest.fixture
def plan(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> Plan:
    alike = [{**row, "prompt": "of the?", "completion": "yes"} for row in prompt_rows(20, seed=1)]
    return Plan(
        store=str(tmp_path / "s"),
        model=str(model_dir),
        domain=str(write_jsonl("domain.jsonl", prompt_rows(6, seed=2))),
        pool=str(write_jsonl("pool.jsonl", alike)),
        tasks=(str(write_jsonl("test.jsonl", choice_rows(5))),),
        name="arms",
        budget=Budget(4, None, None),
        arms=("base", "domain", "random", "selected"),
        seeds=(0, 1),
        draws=3,
        domain_repeat=2,
        epochs=3,
    ).fitted(20)


def test_tokens_of_all_steps_are_those_of_a_plain_count(plan: Plan, model_dir: Path) -> None:
    found = estimate_arms(plan, steps_of(plan), baseline="random", device="cpu")
    encoder = Encoder(load_tokenizer(resolve_model(str(model_dir))), max_length=1024)
    domain, pool = (
        sum(len(encoder.encode(row)) for row in DataFile(place).rows() if isinstance(row, Row))
        for place in (plan.domain, plan.pool)
    )
    trainings = [domain] + [3 * 2 * domain] * 2 + [3 * (2 * domain + 4 * pool / 20)] * (3 + 2)
    assert (found.trainings, found.trainings_done) == (8, 0)
    assert found.train_tokens == pytest.approx(sum(trainings), abs=1)
    assert found.feature_tokens == pytest.approx(2 * domain + pool + 16 * pool / 20, abs=1)
    assert found.power.nats is None
    assert "not known yet" in found.sentences[0]


def test_power_is_from_runs_of_the_store_on_these_items(plan: Plan, model_dir: Path) -> None:
    how = {"model": str(model_dir), "train": [plan.domain], "rank": 2, "lr": 0.05}
    finetune_seeds(plan.store, name="domain", seeds=[0, 1], epochs=3, **how)
    evaluate(plan.store, model=str(model_dir), run=["base", "domain"], task=plan.tasks, name="any")
    found = estimate_arms(plan, steps_of(plan), baseline="random", device="cpu")
    stored = open_store(plan.store)
    right = [stored.get(f"evals/any/domain.s{seed}").read("correct").mean() for seed in (0, 1)]
    assert found.power.spread_points == pytest.approx(np.std(right, ddof=1))
    assert found.power.spread_nats is not None
    assert found.power.nats == pytest.approx(DETECTABLE * found.power.spread_nats * np.sqrt(1 / 2 + 1 / 3))
    assert found.power.runs == 2
    assert "in four cases of five" in found.sentences[0]
    assert found.trainings_done == 2  # the domain's
    other = replace(plan, tasks=(plan.domain,))
    assert estimate_arms(other, steps_of(other), baseline="random", device="cpu").power.nats is None
