"""The number that runs are compared by on a task of lm-evaluation-harness: one per item, with its direction.

The harness makes its metrics of all items at once; what stands in a sample may be a log-likelihood, or a pair that only
its aggregation understands. Here are the metrics that are a mean over items, and how an item is read. Needs lm_eval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.registry import AGGREGATION_REGISTRY
from numpy.typing import NDArray

from ntkcli.errors import UsageError

FIRST = ("acc", "exact_match", "f1")
"""The metric that runs are compared by is the first of these that a task has, else the task's first."""
NATS = ("perplexity", "weighted_perplexity", "bits_per_byte")
"""Aggregations of log-likelihoods: an item's value is the negative one, so lower is better."""
Reader = Callable[[Any], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class ItemMetric:
    """A metric that is the weighted mean of the items' values, or e to its power for `perplexity`.

    `unit` is what a value is, "" where the metric's own; `higher_is_better` is of the items' values.
    """

    name: str
    higher_is_better: bool
    unit: str = ""
    perplexity: bool = False


@dataclass(frozen=True, slots=True)
class ItemValues:
    """A task's items in the order of its documents: `value` and `weight` (n,) float64, NaN where there is no number."""

    metric: ItemMetric
    filter: str
    value: NDArray[np.float64]
    weight: NDArray[np.float64]
    doc_ids: tuple[int, ...]

    def attribute(self) -> dict[str, Any]:
        """What the values are, as JSON for an artefact's attributes."""
        return {
            "metric": self.metric.name,
            "filter": self.filter,
            "higher_is_better": self.metric.higher_is_better,
            "unit": self.metric.unit,
            "perplexity": self.metric.perplexity,
        }


def item_values(task: Any, samples: Sequence[Mapping[str, Any]]) -> ItemValues:
    """The main metric of each item, under the first of the task's filters.

    Raises:
        UsageError: none of its metrics is of single items, or the task does not say which way it gets better.
    """
    first = samples[0].get("filter")
    kept = sorted((each for each in samples if each.get("filter") == first), key=lambda each: int(each["doc_id"]))
    present = {str(name): kept[0].get(name) for name in kept[0].get("metrics", [])}
    metric, read = _main_metric(task, present)
    pairs = [read(each[metric.name]) for each in kept]
    return ItemValues(
        metric,
        str(first),
        value=np.array([value for value, _ in pairs], dtype=np.float64),
        weight=np.array([weight for _, weight in pairs], dtype=np.float64),
        doc_ids=tuple(int(each["doc_id"]) for each in kept),
    )


def require_metric(task: Any) -> None:
    """Refuse, before anything is computed, a task that certainly has no metric of single items, or a missing one."""
    if callable(task.get_config("process_results")):
        return  # what it returns is known once it has run
    missing = [name for name, function in getattr(task, "_metric_fn_list", {}).items() if function is None]
    if missing:
        raise UsageError(
            f"the task {task.task_name} has the metric {missing[0]}, which lm_eval does not have and its library "
            "evaluate can't load here.",
            "Choose a metric of lm_eval, or run once where the Hub can be reached.",
        )
    names = list(task.aggregation())
    if not any(_readable(task, name, None) for name in names):
        raise _no_metric(task, names)


def _main_metric(task: Any, present: Mapping[str, Any]) -> tuple[ItemMetric, Reader]:
    names = [name for name, value in present.items() if _readable(task, name, value)]
    names.sort(key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), not _kind(task, name)))
    if not names:
        raise _no_metric(task, list(present))
    directed = [name for name in names if _direction(task, name) is not None]
    if not directed:
        raise UsageError(
            f"the task {task.task_name} does not say whether a higher {names[0]} is better.",
            "Add `higher_is_better: true` or `false` to its metric_list.",
        )
    name = directed[0]
    kind, better = _kind(task, name), bool(_direction(task, name))
    if kind == "brier_score":
        return ItemMetric(name, better), lambda pair: (float(AGGREGATION_REGISTRY["brier_score"]([pair])), 1.0)
    if kind == "perplexity":
        return ItemMetric(name, False, "nats an item", perplexity=True), lambda value: (-float(value), 1.0)
    if kind == "weighted_perplexity":
        unit = next((one for one in ("word", "byte") if name.startswith(one)), "unit")
        return ItemMetric(name, False, f"nats a {unit}", perplexity=True), lambda pair: _per_unit(pair, 1.0)
    if kind == "bits_per_byte":
        return ItemMetric(name, False, "bits a byte"), lambda pair: _per_unit(pair, math.log(2))
    return ItemMetric(name, better), lambda value: (float(value), 1.0)


def _per_unit(pair: tuple[float, float], nats: float) -> tuple[float, float]:
    """The negative log-likelihood of a text by word or byte, and their number; (0, 0) for an empty text."""
    loglik, count = pair
    return (-float(loglik) / (count * nats), float(count)) if count else (0.0, 0.0)


def _kind(task: Any, name: str) -> str:
    """The name under which lm_eval knows the metric's aggregation; "" for one of the task's own, `mean` for none."""
    function = task.aggregation().get(name)
    if function is None:
        return "mean"  # the harness's own rule for metrics without one
    return next((str(known) for known in AGGREGATION_REGISTRY if AGGREGATION_REGISTRY[known] is function), "")


def _readable(task: Any, name: str, value: Any) -> bool:
    """Whether the metric is of single items; `value` is an item's, None before there is one."""
    kind = _kind(task, name)
    if kind in ("weighted_perplexity", "bits_per_byte", "brier_score"):
        return value is None or len(value) == 2
    return kind in ("mean", "nanmean", "perplexity", "") and (
        value is None or isinstance(value, int | float | np.number)
    )


def _direction(task: Any, name: str) -> bool | None:
    """Whether a higher value of an item is better; None if the task does not say."""
    if _kind(task, name) in NATS:
        return False
    found = task.higher_is_better().get(name)
    return None if found is None else bool(found)


def _no_metric(task: Any, names: Sequence[str]) -> UsageError:
    return UsageError(
        f"the metrics of {task.task_name} ({', '.join(names) or 'none'}) are not of single items, so runs can't be "
        "compared on them.",
        "Choose a task with acc, exact_match or another metric of items.",
    )
