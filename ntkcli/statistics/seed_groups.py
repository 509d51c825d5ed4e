"""Which runs are seeds of one arm, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SEED = re.compile(r"(?P<arm>.+)\.s(?P<seed>\d+)")


def group_seeds(runs: Iterable[str]) -> dict[str, dict[str, str]]:
    """Arm → seed → run, in the order given: `mixed.s0`, `mixed.s1` are the seeds 0 and 1 of `mixed`.

    Any other name is an arm of one run, whose seed is "". So is one whose arm's name another run has by itself.
    """
    names = list(runs)
    arms: dict[str, dict[str, str]] = {}
    for run in names:
        match = _SEED.fullmatch(run)
        if match and match["arm"] not in names:
            arms.setdefault(match["arm"], {})[match["seed"]] = run
        else:
            arms[run] = {"": run}
    return arms
