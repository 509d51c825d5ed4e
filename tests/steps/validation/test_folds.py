"""Validation over folds of the domain: every row is an item once, of trainings that leave its fold out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.data import DataFile, Row
from ntkcli.errors import UsageError
from ntkcli.steps.reports.sections.validation import validation_blocks
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.splits.split import folds_of, split
from ntkcli.steps.validation.dry_run import estimate_validation
from ntkcli.steps.validation.measures import joined
from ntkcli.steps.validation.request import ValidationSettings, prepare
from ntkcli.steps.validation.validate import validate
from tests.steps.validation.kit import MadeUp, make_world


def asked(world: dict[str, Any], model_dir: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "score": ["right", "chance", "reversed"], "model": str(model_dir), "domain": str(world["files"]["domain"]),
        "folds": 4, "name": "v", "rows": 20, "seeds": [0, 1, 2], "subsets": 30,
    }  # fmt: skip
    return values | changes


def test_every_row_is_an_item_once_of_trainings_without_its_fold(tmp_path: Path, model_dir: Path) -> None:
    world = make_world(tmp_path)
    given, trainer = asked(world, model_dir, oracle="source=a"), MadeUp(world)
    estimate = estimate_validation(prepare(world["store"], ValidationSettings.of(**given)))
    found = validate(world["store"], **given, trainer=trainer)
    runs = 1 + 3 * 3 + 3 * 3 * 5 + 30
    assert found.result.runs == runs
    assert (estimate.runs, estimate.folds) == (4 * runs, 4)
    artefact = open_store(world["store"]).get("validations/v")
    fold, nats = artefact.read("fold"), artefact.read("nats")
    rows = [row for row in DataFile(str(world["files"]["domain"])).rows() if isinstance(row, Row)]
    expected = folds_of(rows, 4, by=None)
    assert artefact.attrs["item_fold"] == expected.tolist()
    assert fold.tolist() == list(range(4)) * runs
    assert (np.isfinite(nats) == (expected[None] == fold[:, None])).all()
    for number, ids in enumerate(trainer.trained):
        own = {row.row_id for row, where in zip(rows, expected, strict=True) if where != number % 4}
        assert ids in (own, set())  # the bare model is trained on nothing
    whole = joined({name: artefact.read(name) for name in ("nats", "seed", "tokens")}, expected)
    assert (whole["nats"] == np.nansum(nats.reshape(runs, 4, -1), axis=1)).all()
    by_score = {one.score: one for one in found.result.scores}
    assert by_score["right"].slope == pytest.approx(0.4, abs=0.05)
    assert by_score["right"].slope_low > 0 > by_score["reversed"].slope_high
    assert by_score["chance"].p > 0.05
    assert by_score["right"].lds > 0.8
    blocks = validation_blocks("v", {**whole, **_others(artefact, expected)}, artefact.attrs)
    assert len(blocks) == 4  # three doses, and the LDS
    again = validate(world["store"], **given, trainer=MadeUp(world))
    assert again == found


def _others(artefact: Any, folds: np.ndarray) -> dict[str, np.ndarray]:
    return joined({name: artefact.read(name) for name in ("design", "score", "bin", "sums", "diverged")}, folds)


def test_broken_off_in_a_fold_it_resumes_to_the_same_bytes(tmp_path: Path, model_dir: Path) -> None:
    digests = []
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        world = make_world(tmp_path / name)
        trainer = MadeUp(world)
        given = asked(world, model_dir, score=["right"], design="bins", seeds=[0])
        if name == "broken":
            trainer.stop_after = 10
            with pytest.raises(KeyboardInterrupt):
                validate(world["store"], **given, trainer=trainer)
            assert open_store(world["store"]).get("validations/v").rows_done() == 10
            trainer.stop_after = None
        validate(world["store"], **given, trainer=trainer)
        digests.append(open_store(world["store"]).get("validations/v").digest())
    assert digests[0] == digests[1]


def test_groups_stay_in_one_fold_and_a_diverged_fold_is_the_worst(tmp_path: Path, model_dir: Path) -> None:
    world = make_world(tmp_path)
    lines = [json.loads(line) for line in world["files"]["domain"].read_text().splitlines()]
    text = "".join(json.dumps({**row, "author": i // 4}) + "\n" for i, row in enumerate(lines))
    world["files"]["domain"].write_text(text)
    given = asked(world, model_dir, score=["right"], design="bins", by="author")
    best = [4 * (1 + 2 * 3 + 5 * seed) + 1 for seed in range(3)]  # the second fold of the best bin
    found = validate(world["store"], **given, trainer=MadeUp(world, lost=best))
    fold = np.array(open_store(world["store"]).get("validations/v").attrs["item_fold"])
    assert all(len(set(fold[4 * i : 4 * i + 4])) == 1 for i in range(5))
    assert found.result.diverged == 3
    assert found.result.scores[0].slope < 0.3
    result = split(str(world["files"]["domain"]), folds=4, by="author", out=tmp_path / "own")
    sizes = [side.rows for side in result.sides if side.name.endswith("test")]
    assert sizes == np.bincount(fold).tolist()
    with pytest.raises(UsageError, match="no row has that column"):
        validate(world["store"], **{**given, "by": "writer", "name": "w"}, trainer=MadeUp(world))


def test_the_spread_of_other_folds_is_not_taken(tmp_path: Path, model_dir: Path) -> None:
    world = make_world(tmp_path)
    given = asked(world, model_dir, score=["right"], design="bins", seeds=[0, 1])
    validate(world["store"], **given, trainer=MadeUp(world))
    known = []
    for folds in (4, 7):  # seven does not divide the 60 trainings in four folds
        other = {**given, "name": "w", "folds": folds}
        known.append(estimate_validation(prepare(world["store"], ValidationSettings.of(**other))).power.spread)
    assert known[0] is not None
    assert known[1] is None
