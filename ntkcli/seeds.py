"""Which seeds there are: whole numbers of 64 bits, of trainings of 32."""

from __future__ import annotations

from collections.abc import Sequence

from ntkcli.errors import UsageError

LEAST, MOST = -(2**63), 2**64 - 1
"""Of projections, probes, fresh adapters and draws of rows, which hash the seed."""
MOST_OF_TRAINING = 2**32 - 1
"""numpy takes no larger one, and torch's generator on a CPU looks at no more bits: 2**32 would train as 0 does."""


def check_seed(option: str, seed: int) -> None:
    """UsageError if a seed needs more than 64 bits."""
    _check(option, seed, LEAST, MOST)


def check_training_seed(option: str, seed: int) -> None:
    """UsageError if a seed of a training is below 0 or needs more than 32 bits."""
    _check(option, seed, 0, MOST_OF_TRAINING)


def check_seeds(seeds: Sequence[int]) -> None:
    """UsageError if the seeds of several trainings are none, or not different whole numbers of 32 bits."""
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        given = ",".join(map(str, seeds)) or "(none)"
        raise UsageError(f"--seeds {given}: give different whole numbers, 0 or more.", "As in --seeds 0,1,2.")
    for seed in seeds:
        check_training_seed("--seeds", seed)


def _check(option: str, seed: int, least: int, most: int) -> None:
    if not least <= seed <= most:
        raise UsageError(f"{option} {seed} is out of range.", f"Give a whole number from {least} to {most}.")
