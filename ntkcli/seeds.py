"""Which seeds there are: whole numbers of 64 bits, of trainings of 32."""

from __future__ import annotations

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


def _check(option: str, seed: int, least: int, most: int) -> None:
    if not least <= seed <= most:
        raise UsageError(f"{option} {seed} is out of range.", f"Give a whole number from {least} to {most}.")
