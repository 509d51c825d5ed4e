"""Metrics, intervals and paired comparisons of evaluated runs. Plain numpy; knows nothing of stores or models.

    compare_arms({"test": TaskItems({"random": {"0": correct, ...}, "picked": {"0": ...}})}, baseline="random")

Read `comparison` first.
"""

from ntkcli.statistics.arm_scores import ArmScore, Difference
from ntkcli.statistics.classification import Classification, ClassScore, classify
from ntkcli.statistics.comparison import (
    AVERAGE,
    Comparison,
    TaskItems,
    compare_arms,
    holm,
)
from ntkcli.statistics.proportions import Accuracy, accuracy, mcnemar
from ntkcli.statistics.seed_groups import group_seeds
from ntkcli.statistics.sentences import sentence

__all__ = [
    "AVERAGE",
    "Accuracy",
    "ArmScore",
    "ClassScore",
    "Classification",
    "Comparison",
    "Difference",
    "TaskItems",
    "accuracy",
    "classify",
    "compare_arms",
    "group_seeds",
    "holm",
    "mcnemar",
    "sentence",
]
