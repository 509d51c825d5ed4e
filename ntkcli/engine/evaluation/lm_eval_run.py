"""Loaded tasks of lm-evaluation-harness run on the model in use: its own metrics, and an item's number for comparisons.

Needs the package lm_eval.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lm_eval.api import model as lm_eval_model
from lm_eval.api import task as lm_eval_task
from lm_eval.evaluator import evaluate

from ntkcli.engine.evaluation.evaluator import Evaluator
from ntkcli.engine.evaluation.lm_eval import HarnessModel
from ntkcli.engine.evaluation.lm_eval_code import templates_in_a_sandbox
from ntkcli.engine.evaluation.lm_eval_metrics import ItemValues, item_values
from ntkcli.engine.evaluation.lm_eval_tasks import SEED, HarnessTasks, TaskOptions, user_errors
from ntkcli.errors import UsageError
from ntkcli.progress import Progress


@dataclass(frozen=True, slots=True)
class HarnessRun:
    """A run's results and samples in the harness's own shape; its items task by task; the documents cut."""

    results: dict[str, Any]
    samples: dict[str, list[Any]]
    items: dict[str, ItemValues]
    truncated: frozenset[tuple[str, int]]


def run_harness(
    evaluator: Evaluator,
    loaded: HarnessTasks,
    options: TaskOptions,
    *,
    max_length: int,
    progress: Progress,
    thinking: bool | None = None,
    trust: bool = False,
) -> HarnessRun:
    """What the harness finds on the tasks for the model in use, with the seeds that `lm-eval` itself has by default.

    Raises:
        UsageError: a task's file, code or data can't be used; an answer doesn't fit.
    """
    model = HarnessModel(evaluator, max_length=max_length, progress=progress, thinking=thinking)
    random.seed(0)
    np.random.seed(SEED)  # tasks of the harness may draw from these
    torch.manual_seed(SEED)
    for task in loaded.tasks.values():
        task.set_fewshot_seed(seed=SEED)
    with templates_in_a_sandbox(trusted=trust), _without_bars(), contextlib.redirect_stdout(sys.stderr):
        try:
            with user_errors(",".join(loaded.tasks)):
                found: dict[str, Any] = evaluate(
                    lm=model,
                    task_dict={"tasks": loaded.tasks, "groups": loaded.groups},
                    limit=options.limit,
                    bootstrap_iters=0,
                    apply_chat_template=options.apply_chat_template,
                    fewshot_as_multiturn=True,
                )
        except UsageError as error:
            if model.failure is not None and error.__cause__ is model.failure:
                raise model.failure from None  # ours, not the task's
            raise
    samples = found.pop("samples")
    items = {name: item_values(task, samples[name]) for name, task in loaded.tasks.items()}
    return HarnessRun(found, samples, items, frozenset(model.truncated))


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """No bars of the harness's own: ours shows the progress of the whole."""
    own = [(module, module.tqdm) for module in (lm_eval_task, lm_eval_model)]
    for module, _ in own:
        module.tqdm = lambda iterable, **_: iterable
    try:
        yield
    finally:
        for module, bar in own:
            module.tqdm = bar
