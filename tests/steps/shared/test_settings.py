"""The settings objects hold every keyword of the public functions, once, with the same default."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import pytest

from ntkcli.steps.evaluation.evaluate import evaluate
from ntkcli.steps.evaluation.settings import EvaluationSettings, HarnessOptions, Scoring
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.features.request import FeatureRequest
from ntkcli.steps.features.settings import FeatureSettings
from ntkcli.steps.shared.settings import ModelUse, Reading
from ntkcli.steps.training.finetune import finetune
from ntkcli.steps.training.request import TrainingRequest
from ntkcli.steps.training.settings import TrainingSettings
from ntkcli.steps.validation.request import ValidationSettings

ALL = {
    TrainingRequest: (ModelUse, Reading, TrainingSettings),
    FeatureRequest: (ModelUse, Reading, FeatureSettings),
    EvaluationSettings: (ModelUse, Reading, Scoring, HarnessOptions),
    ValidationSettings: (ModelUse, Reading, TrainingSettings),
}
PARTS = {"use", "reading", "settings", "training", "scoring", "harness"}
REQUIRED: dict[str, Any] = {"model": "m", "name": "n", "data": "d", "kind": "ntk", "train": ["t"], "run": ["base"]}
REQUIRED |= {"task": ["t"], "score": ["s"], "domain": "d"}


def options(request: type) -> list[tuple[str, Any]]:
    """Name and default of every option of a request, those of its parts with its own."""
    own = [field for field in fields(request) if field.name not in PARTS]
    every = [*own, *(field for part in ALL[request] for field in fields(part))]
    return [(field.name, field.default) for field in every]


@pytest.mark.parametrize("request_type", list(ALL))
def test_no_option_belongs_to_two_parts(request_type: type) -> None:
    names = [name for name, _ in options(request_type)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("request_type", list(ALL))
def test_every_option_arrives_and_no_other_is_taken(request_type: Any) -> None:
    given = {name: REQUIRED.get(name, object()) for name, _ in options(request_type)}
    made = request_type.of(**given)
    held = [made, *(getattr(made, name) for name in PARTS if hasattr(made, name))]
    arrived = {field.name: getattr(one, field.name) for one in held for field in fields(one)}
    assert {name: arrived[name] for name in given} == given
    with pytest.raises(TypeError, match="unexpected keyword arguments: colour"):
        request_type.of(**given, colour="red")


@pytest.mark.parametrize(
    ("function", "request_type"),
    [(finetune, TrainingRequest), (featurize, FeatureRequest), (evaluate, EvaluationSettings)],
)
def test_functions_take_the_same_options_with_the_same_defaults(
    function: Callable[..., object], request_type: type
) -> None:
    taken = {
        name: MISSING if each.default is inspect.Parameter.empty else each.default
        for name, each in inspect.signature(function).parameters.items()
        if name not in ("store_path", "progress")
    }
    asked = dict(options(request_type))
    if "shard" not in asked:  # which parts, and not what is evaluated
        taken.pop("shard", None)
    assert taken == asked
