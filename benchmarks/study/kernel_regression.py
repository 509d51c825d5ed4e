"""Does kernel regression on the domain's few rows answer the test items as fine-tuning on them does?

    predictions = Θ_test (Θ + nλI)^-1 y        y: one-hot answers of the n domain rows

No answer enters a feature: every row, of the domain and of the test, is written with one constant completion, and its
feature is over that completion's positions. λ is chosen by leave-one-out on the domain's rows. A constant 1 is added to
centred kernels, which have lost what tells the classes' shares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from kernel_features import stored_kernel
from setting import Cell, Setting

from ntkcli.statistics import accuracy
from ntkcli.statistics.kernels import FORMS, Floats, ridge_classes
from ntkcli.steps.evaluation.evaluate import evaluate
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune

COMPLETION: Final = "Answer"
FEATURES: Final[dict[str, dict[str, Any]]] = {
    "sum": {"kind": "ntk", "probe": "sum"},
    "centred": {"kind": "ntk", "probe": "centred"},
    "embed": {"kind": "embed"},
}


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a file and their choices, which must be the same for all."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    choices = {tuple(row.get("choices", ())) for row in rows}
    if len(choices) != 1 or choices == {()}:
        sys.exit(f"{path}: its rows have no common choices to be classes; give a --task whose rows have")
    return rows, list(choices.pop())


def write_blind(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows' prompts, each with the constant completion, beside `path`."""
    blind = path.with_name(f"{path.stem}-blind.jsonl")
    kept = ({"id": row["id"], "prompt": row["prompt"], "completion": COMPLETION} for row in rows)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    if not blind.exists() or blind.read_text(encoding="utf-8") != text:
        blind.write_text(text, encoding="utf-8")
    return blind


def regress(kernel_NN: Floats, answers: np.ndarray, test_answers: np.ndarray, classes: int) -> Iterator[str]:
    """The cells of every form of a kernel: the form, nλ, accuracy of leave-one-out, accuracy on the test."""
    for form in FORMS:
        found = ridge_classes(kernel_NN, answers, classes=classes, form=form)
        left_out = (found.left_out == answers).mean()
        yield f"{form:8} {found.penalty:9.2g} {left_out:14.3f}  {interval(found.predicted == test_answers)}"


def interval(right: np.ndarray) -> str:
    """Accuracy with its Wilson interval."""
    found = accuracy(right.astype(np.bool_))
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def fine_tuned(
    given: argparse.Namespace, test: Path, warm: str, answers: np.ndarray, setting: Setting
) -> dict[str, str]:
    """Accuracy of the base model, of the warm-up, and of the study's domain arm on the same items if it is there."""
    store, name = given.folder / "store", f"claims-{given.task}-d{given.domain}"
    runs = {
        "base": "the model as it is",
        warm: f"fine-tuned on the domain, {setting.warmup_epochs} epochs (the warm-up)",
    }
    how: dict[str, Any] = {"model": given.model, "max_length": setting.max_length, "task": [test]}
    evaluate(store, run=list(runs), name=f"{name}-t{len(answers)}", **how)
    stored = open_store(store)
    found = {
        label: interval(stored.get(f"evals/{name}-t{len(answers)}/{run}").read("correct"))
        for run, label in runs.items()
    }
    for cell in (Cell(given.task, given.domain, times) for times in setting.times):
        arm = stored.find(f"evals/{cell.name}/{cell.name}-domain.s0")
        if arm is not None and arm.complete and np.array_equal(arm.read("answer")[: len(answers)], answers):
            found[f"fine-tuned on the domain (the study's {cell.name}-domain.s0)"] = interval(
                arm.read("correct")[: len(answers)]
            )
    return found


def report(given: argparse.Namespace, domain: Path, test: Path, setting: Setting, training: dict[str, Any]) -> None:
    """Train the warm-up, featurize, and print the table."""
    (rows, choices), (items, test_choices) = read(domain), read(test)
    if choices != test_choices:
        sys.exit(f"{test} has other choices than {domain}; give a --task whose rows have the same")
    answers, test_answers = (np.array([row["answer"] for row in side]) for side in (rows, items))
    store, warm = given.folder / "store", f"{given.task}-d{given.domain}-warmup"
    # As the study's own warm-up, which is taken if it is there.
    how = {**training, "epochs": setting.warmup_epochs, "keep_optimizer": True}
    finetune(store, model=given.model, train=[str(domain)], name=warm, **how)
    sides = {
        f"claims-{given.task}-d{len(rows)}-blind": write_blind(domain, rows),
        f"claims-{given.task}-t{len(items)}-blind": write_blind(test, items),
    }
    print(
        f"{given.task}: {len(rows)} domain rows, {len(items)} test items, classes {', '.join(choices)}; "
        f"most frequent class of the domain: {interval(test_answers == np.bincount(answers).argmax())} of the test"
    )
    print(f"\n{'adapter':8} {'feature':8} {'kernel':8} {'n lambda':>9} {'leave-one-out':>14}  test (95% interval)")
    for adapter in (warm, None):
        for name, options in FEATURES.items():
            label = "warm" if adapter else "fresh"
            feature = f"{warm}-{name}" if adapter else name
            settings = {"model": given.model, "max_length": setting.max_length, **options}
            found = stored_kernel(store, sides, feature, adapter=adapter, **settings)
            for cells in regress(found, answers, test_answers, len(choices)):
                print(f"{label:8} {name:8} {cells}", flush=True)
    print()
    for label, text in fine_tuned(given, test, warm, test_answers, setting).items():
        print(f"{label:62} {text}")
