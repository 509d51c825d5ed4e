"""Short verbal and arithmetic tasks of reasoning-gym, made from a seed. Imports it only when called."""

from __future__ import annotations

import warnings

from ntkcli.demo.packages import require

# Tasks with questions in words or one line of arithmetic, <= 50 words, made in milliseconds, answers of one
# line; with 0.1.25 they depend on the seed alone (no clock, no set order) and print nothing. time_intervals
# reads the clock, bf prints.
TASKS = (
    "aiw",
    "basic_arithmetic",
    "caesar_cipher",
    "calendar_arithmetic",
    "chain_sum",
    "coin_flip",
    "family_relationships",
    "fraction_simplification",
    "gcd",
    "lcm",
    "leg_counting",
    "letter_counting",
    "number_filtering",
    "number_sequence",
    "prime_factorization",
    "sentence_reordering",
    "simple_equations",
    "spell_backward",
    "syllogism",
    "word_sequence_reversal",
)
SPARE_ROWS = 8  # a task, for those that turn out too long or repeated


def reasoning_rows(*, seed: int, n: int) -> dict[str, list[tuple[str, str]]]:
    """Task -> (question, answer) pairs, at least n in all, the same for the same seed."""
    require("reasoning_gym")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its modules warn about their own syntax when first compiled
        import reasoning_gym  # here: 1.5 s, and only the demo needs it

        found = {}
        for i, task in enumerate(TASKS):
            size = -(-n // len(TASKS)) + SPARE_ROWS
            made = reasoning_gym.create_dataset(task, size=size, seed=seed * 1_000 + i)
            found[task] = [(str(made[j]["question"]), str(made[j]["answer"])) for j in range(size)]
    return found
