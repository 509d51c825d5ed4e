"""Steps that load a model let go of it when they are done."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def frees_memory(step: Callable[P, R]) -> Callable[P, R]:
    """The step, and after it the device's memory is free for the next one of this process.

    Nothing that it returns may hold the model. After an error its traceback does, until that is handled.
    """

    @wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        found = step(*args, **kwargs)
        if "torch" in sys.modules:
            from ntkcli.engine.models.release import free_memory

            free_memory()
        return found

    return run
