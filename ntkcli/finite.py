"""JSON has no word for NaN and infinity: values without them. Pure."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def _null(_: float) -> None:
    return None


def finite(value: Any, instead: Callable[[float], Any] = _null) -> Any:
    """The value with None, or what `instead` gives, for every float in it that is not finite.

    Tuples become lists, and dataclasses dictionaries.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return finite(dataclasses.asdict(value), instead)
    if isinstance(value, float):
        return value if math.isfinite(value) else instead(value)
    if isinstance(value, Mapping):
        return {str(key): finite(item, instead) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item, instead) for item in value]
    return value


def to_json(value: Any, *, indent: int | None = None) -> str:
    """The value as JSON: null for every number that is not finite, dataclasses by their fields."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)
