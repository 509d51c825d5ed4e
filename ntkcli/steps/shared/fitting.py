"""A row that does not fit in memory by itself is named, with the options that help, wherever rows are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def naming(names: Sequence[str], fix: str | None = None) -> Iterator[None]:
    """Within, a row that does not fit is called by its name: `names` are those of the rows that are computed."""
    from ntkcli.engine.memory import FIX, DoesNotFitError

    try:
        yield
    except DoesNotFitError as error:
        raise error.named(names[error.row], fix or FIX) from error


def alone(compute: Callable[[], T], *, name: str, tokens: int) -> T:
    """What `compute` gives of a single row; it is named where it does not fit."""
    from ntkcli.engine.memory import TokenBudget

    found: list[T] = []
    with naming([name]):
        TokenBudget(tokens).fits(lambda: found.append(compute()), [0], longest=tokens)
    return found[0]
