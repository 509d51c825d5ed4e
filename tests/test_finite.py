"""JSON without NaN and infinity."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np

from ntkcli.finite import finite, to_json


@dataclass
class Result:
    value: float
    parts: tuple[float, ...]


def test_numbers_that_are_not_finite_become_null_wherever_they_are() -> None:
    nested = {"a": [1, math.nan, {"b": (math.inf, "NaN")}], "c": np.float64("-inf"), 3: True}
    assert json.loads(to_json(nested)) == {"a": [1, None, {"b": [None, "NaN"]}], "c": None, "3": True}
    assert json.loads(to_json(Result(math.nan, (1.5, math.inf)))) == {"value": None, "parts": [1.5, None]}


def test_something_else_than_null_can_stand_for_them() -> None:
    assert finite([math.nan, 2.0, -math.inf], str) == ["nan", 2.0, "-inf"]
