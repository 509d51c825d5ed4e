"""Validation in a made-up world whose truth is known, without training; and its refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import store
from ntkcli.errors import DataError, SpecError, UsageError
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.upkeep.info import info
from ntkcli.steps.upkeep.verify import verify
from ntkcli.steps.validation.bench import choice_nats
from ntkcli.steps.validation.plan import BIN, DESIGNS, MIXTURE, ORACLE, UNIFORM
from ntkcli.steps.validation.validate import validate
from tests.conftest import prompt_rows, write_rows
from tests.steps.validation.kit import MadeUp, add_score, make_world

SCORES = ["right", "chance", "reversed"]


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    return make_world(tmp_path)


def asked(world: dict[str, Any], model_dir: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "score": SCORES, "model": str(model_dir), "domain": str(world["files"]["domain"]),
        "task": [str(world["files"]["test"])], "name": "v", "rows": 20, "seeds": [0, 1, 2], "subsets": 30,
    }  # fmt: skip
    return values | changes


def test_right_chance_and_reversed_are_told_apart(world: dict[str, Any], model_dir: Path) -> None:
    found = validate(world["store"], **asked(world, model_dir, oracle="source=a"), trainer=MadeUp(world))
    by_score = {one.score: one for one in found.result.scores}
    right, chance, wrong = (by_score[name] for name in SCORES)
    # the mean worth of the best fifth is .9, of the worst .1: a slope of .8 gains over the range of bins
    assert right.slope == pytest.approx(0.8 * 0.5, abs=0.05)
    assert right.slope_low > 0
    assert right.p < 0.01
    assert right.rank_correlation == 1
    assert right.lds > 0.8
    assert right.lds_low > 0.5
    assert wrong.slope == pytest.approx(-0.8 * 0.5, abs=0.05)
    assert wrong.lds == pytest.approx(-right.lds)
    assert wrong.slope_high < 0
    assert chance.p > 0.05
    assert chance.lds_low < 0 < chance.lds_high
    said = " ".join(found.result.sentences)
    assert "The rows that right likes best lower the loss on test by 0." in said
    assert "reversed is the wrong way round on test" in said
    assert "No difference shown on test between the rows that chance likes best" in said
    assert "No score could show a gain on test: the oracle does not beat random rows" in said  # a source is no better
    assert "in four cases of five" in said
    assert found.result.diverged == 0
    assert found.result.runs == 1 + 3 * 3 + 3 * 3 * 5 + 30
    assert found.result.power.spread is not None


def test_lds_is_spearman_of_sums_and_losses_as_others_define_it(world: dict[str, Any], model_dir: Path) -> None:
    """dattri (dattri.metric.lds) and bergson (validate): for subsets j, the Spearman correlation of the sum of the
    scores of the rows in j with the measured output of the model trained on j; TRAK (arXiv 2303.14186), eq. 5."""
    found = validate(world["store"], **asked(world, model_dir, design="subsets"), trainer=MadeUp(world))
    stored = open_store(world["store"])
    artefact = stored.get("validations/v")
    design, rows, nats = (artefact.read(name) for name in ("design", "rows", "nats"))
    own = np.isin(design, [DESIGNS.index(UNIFORM), DESIGNS.index(MIXTURE)])
    assert own.sum() == 30
    for k, one in enumerate(found.result.scores):
        values = stored.get(f"scores/{one.score}").read("score").astype(np.float64)
        sums = np.array([values[subset].sum() for subset in rows[own]])
        assert one.lds == pytest.approx(stats.spearmanr(sums, -nats[own].mean(axis=1)).statistic)
        assert np.allclose(artefact.read("sums")[own, k], sums)
        assert math.isnan(one.slope)


def test_an_oracle_that_is_right_beats_random_rows(world: dict[str, Any], model_dir: Path, tmp_path: Path) -> None:
    good = [row for row, worth in zip(prompt_rows(400, seed=3), world["worth"], strict=True) if worth > 0.8]
    file = write_rows(tmp_path / "right.jsonl", good)  # matched by id
    found = validate(
        world["store"], **asked(world, model_dir, design="bins", oracle=str(file)), trainer=MadeUp(world)
    )  # fmt: skip
    assert found.result.oracle is not None
    (oracle,) = found.result.oracle
    assert oracle.minus_random == pytest.approx(-0.4 * 0.5, abs=0.05)
    assert oracle.high < 0
    assert any(text.startswith("The oracle's rows lower the loss on test by") for text in found.result.sentences)
    artefact = open_store(world["store"]).get("validations/v")
    rows = artefact.read("rows")[artefact.read("design") == DESIGNS.index(ORACLE)]
    assert (world["worth"][rows] > 0.8).all()


def test_an_oracle_by_content(world: dict[str, Any], model_dir: Path, tmp_path: Path) -> None:
    import json

    rows = [json.loads(line) for line in world["files"]["pool"].read_text().splitlines()][:30]
    file = write_rows(tmp_path / "same.jsonl", [{**row, "id": f"other-{i}"} for i, row in enumerate(rows)])
    given = asked(world, model_dir, design="bins", oracle=str(file), score=["right"], seeds=[0])
    validate(world["store"], **given, trainer=MadeUp(world))
    artefact = open_store(world["store"]).get("validations/v")
    used = artefact.read("rows")[artefact.read("design") == DESIGNS.index(ORACLE)]
    assert set(used.ravel().tolist()) <= set(range(30))


def test_broken_off_it_resumes_to_the_same_bytes_and_finished_it_trains_nothing(
    tmp_path: Path, model_dir: Path
) -> None:
    digests, trainers = [], []
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        world = make_world(tmp_path / name)
        trainer = MadeUp(world)
        given = asked(world, model_dir, score=["right"], subsets=10)
        if name == "broken":
            trainer.stop_after = 9
            with pytest.raises(KeyboardInterrupt):
                validate(world["store"], **given, trainer=trainer)
            assert open_store(world["store"]).get("validations/v").rows_done() == 9
            trainer.stop_after = None
        first = validate(world["store"], **given, trainer=trainer)
        artefact = open_store(world["store"]).get("validations/v")
        digests.append((artefact.digest(), artefact.fingerprint))
        trainers.append(trainer.calls)
        again = validate(world["store"], **given, trainer=trainer)
        assert trainer.calls == trainers[-1]
        assert again == first
    assert digests[0] == digests[1]
    assert trainers[1] == trainers[0] + 1  # the run that was broken off
    assert verify(world["store"]).sound
    assert any(one.name == "validations/v" and one.complete for one in info(world["store"]).artefacts)
    with pytest.raises(store.SpecDiffersError, match="rows was 20, is now 19") as caught:
        validate(world["store"], **given | {"rows": 19}, trainer=trainer)
    assert [difference.field for difference in caught.value.differences] == ["rows"]


def test_a_run_that_diverges_is_kept_as_the_worst_and_the_rest_goes_on(world: dict[str, Any], model_dir: Path) -> None:
    """All runs of the best bin diverge: the score is then the wrong way round."""
    given = asked(world, model_dir, score=["right"], design="bins")
    lost = [1 + 2 * 3 + 5 * seed for seed in range(3)]
    found = validate(world["store"], **given, trainer=MadeUp(world, lost=lost))
    assert found.result.diverged == 3
    assert found.result.runs == 1 + 6 + 15
    artefact = open_store(world["store"]).get("validations/v")
    assert np.flatnonzero(artefact.read("diverged")).tolist() == lost
    assert np.isnan(artefact.read("nats")[lost]).all()
    assert (artefact.read("bin")[lost] == 0).all()
    assert (artefact.read("design")[lost] == DESIGNS.index(BIN)).all()
    whole = validate(world["store"], **given | {"name": "w"}, trainer=MadeUp(world))
    assert found.result.scores[0].slope < whole.result.scores[0].slope - 0.1
    assert any("3 of 22 runs diverged" in text and "--lr" in text for text in found.result.sentences)


def test_a_score_that_covers_part_of_the_pool(world: dict[str, Any], model_dir: Path) -> None:
    partly = world["worth"].copy()
    partly[::2] = np.nan
    add_score(open_store(world["store"]), "partly", partly)
    given = asked(world, model_dir, score=["right", "partly"], subsets=10, seeds=[0])
    validate(world["store"], **given, trainer=MadeUp(world))
    artefact = open_store(world["store"]).get("validations/v")
    rows = artefact.read("rows")
    assert (rows[rows >= 0] % 2 == 1).all()
    assert np.isfinite(artefact.read("sums")).all()


def test_what_cannot_be_validated_is_refused_with_the_fix(
    world: dict[str, Any], model_dir: Path, tmp_path: Path
) -> None:
    stored = open_store(world["store"])
    register_data(stored, name="other", data=write_rows(tmp_path / "o.jsonl", prompt_rows(30, seed=8)))
    add_score(stored, "elsewhere", np.arange(30), data="other")
    pool = world["files"]["pool"].read_text().splitlines()
    leaked = write_rows(tmp_path / "leak.jsonl", pool[:200])
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"score": ["right", "elsewhere"]}, SpecError, "elsewhere is of the data set 'other', .* Give scores of one"),
        ({"score": ["right", "right"]}, UsageError, "Give each score once"),
        ({"score": ["none"]}, store.MissingArtefactError, "scores/none"),
        ({"seeds": []}, UsageError, "--seeds .none.: .* As in --seeds 0,1,2"),
        ({"seeds": [1, 1]}, UsageError, "--seeds 1,1"),
        ({"subsets": 4}, UsageError, r"--subsets 4: too few .* Give \d+ or more"),
        ({"rows": 81}, DataError, "0% to 20% of right, chance, reversed has 80 rows .* --rows 80 or fewer"),
        ({"oracle": "source=z"}, UsageError, "0 rows; .* Its sources are: a, b, c, d"),
        ({"oracle": str(tmp_path / "o.jsonl")}, DataError, "none of its 30 rows is in datasets/pool"),
        ({"domain_repeat": 101}, UsageError, "--domain-repeat 101"),
        ({"task": [str(world["files"]["domain"])]}, DataError, "20 rows of --domain are test items"),
        ({"task": [str(leaked)]}, DataError, r"rows of datasets/pool are test items: .* Take them out"),
        ({"task": []}, UsageError, "--task is missing"),
        ({"lr": -1.0}, UsageError, "--lr"),
    ]
    for changes, error, match in cases:
        with pytest.raises(error, match=match):
            validate(world["store"], **asked(world, model_dir, **changes), trainer=MadeUp(world))
    assert stored.find("validations/v") is None


def test_nats_of_the_right_choice_are_a_log_softmax() -> None:
    sums = np.array([-800.0, -801.0, -799.5])
    expected = -np.log(np.exp(sums[1] + 799.5) / np.exp(sums + 799.5).sum())
    assert choice_nats(sums, 1) == pytest.approx(expected)
