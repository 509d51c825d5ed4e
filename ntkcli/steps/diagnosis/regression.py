"""Does kernel ridge regression on the domain's rows answer the test items as the fine-tuned model does?

    predictions = Θ_test (Θ + nλI)^-1 y        y: one-hot answers of the n domain rows

No answer enters a feature: every row is written with one constant completion, and its feature is over that completion's
positions. λ is chosen by leave-one-out on the domain's rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

import store
from ntkcli.choices import Kind, OnError, Scorer
from ntkcli.data import Encoded, Message, Row, RowError
from ntkcli.errors import DataError, SpecError, UsageError
from ntkcli.progress import Progress
from ntkcli.statistics import accuracy, paired_difference
from ntkcli.statistics.kernels import FORMS, Rows, ridge_classes
from ntkcli.steps.diagnosis.findings import Check, Cost, Finding, Points
from ntkcli.steps.diagnosis.request import Request
from ntkcli.steps.diagnosis.sample import Setup, Side, cost_of, set_up
from ntkcli.steps.diagnosis.vectors import feature_settings, vectors
from ntkcli.steps.evaluation.items import load_tasks
from ntkcli.steps.shared.row_sets import resolve_rows
from ntkcli.steps.shared.stores import open_store

COMPLETION: Final = "Answer"
MAX_LENGTH: Final = 1024
FORM: Final = "centred"
"""Of the kernel: the raw one learns little more than the most frequent class (docs/results.md)."""


@dataclass(frozen=True, slots=True)
class _Work:
    """The domain's rows and the test items without their answers, the answers, and what the model answered."""

    setup: Setup
    sides: tuple[Side, Side]
    choices: tuple[str, ...]
    answers: Rows
    test_answers: Rows
    predicted: Rows


def regression(request: Request, *, progress: Progress) -> Finding:
    """Compare the answers of kernel regression with those that an eval of the store has of the fine-tuned model.

    Raises:
        DataError: the rows and the items don't all have the same choices. SpecError: the eval is of other items.
    """
    stored = open_store(request.store_path)
    work = _work(stored, request)
    settings = feature_settings(request, kind=Kind.NTK, probe=request.probe)
    found = vectors(
        stored, "regression", work.sides, request=request, setup=work.setup, adapter=work.setup.adapter,
        settings=settings, progress=progress,
        announce=lambda: cost_of("regression", work.setup, work.sides, device=request.device, passes=1),
    )  # fmt: skip
    raw = np.nan_to_num(found.raw)
    made = {
        form: ridge_classes(raw @ raw.T, work.answers, classes=len(work.choices), form=form).predicted for form in FORMS
    }
    by_form = {form: accuracy(predicted == work.test_answers).value for form, predicted in made.items()}
    checks = (_same(request, work, made[FORM]), _accuracy(work, made[FORM], by_form))
    panel = _panel(request, work, made[FORM])
    return Finding(checks, (panel,), sum(side.skipped for side in work.sides))


def regression_cost(request: Request) -> Cost:
    """What it would take."""
    work = _work(open_store(request.store_path), request)
    return cost_of("regression", work.setup, work.sides, device=request.device, passes=1)


def _same(request: Request, work: _Work, predicted: Rows) -> Check:
    """The share of items that both answer alike, with a Wilson interval; and what chance gives with these shares."""
    found = accuracy(predicted == work.predicted)
    shares = [np.bincount(side, minlength=len(work.choices)) / len(side) for side in (predicted, work.predicted)]
    chance = float(shares[0] @ shares[1])
    shown = "more often than" if found.low > chance else "no more often than"
    sentence = (
        f"Kernel regression answers {found.value:.0%} of {found.n} items as {request.run[0]} does (95% {found.low:.0%} "
        f"to {found.high:.0%}), {shown} by chance ({chance:.0%})."
    )
    return Check("regression", "same answers", found.value, found.low, found.high, sentence, {"chance": chance})


def _accuracy(work: _Work, predicted: Rows, by_form: dict[str, float]) -> Check:
    """Accuracy of the regression minus the model's on the same items, with a paired interval."""
    right, own = predicted == work.test_answers, work.predicted == work.test_answers
    found = paired_difference(right, own)
    verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "no difference is shown"
    sentence = (
        f"It is right on {right.mean():.0%}, the model on {own.mean():.0%}: {100 * found.value:+.0f} points (95% "
        f"{100 * found.low:+.0f} to {100 * found.high:+.0f}), {verdict}. "
    )
    if found.low > 0:
        sentence += "The kernel knows more of this domain than the training used: train longer or at a higher --lr."
    elif found.high < 0:
        sentence += "The kernel is a poor stand-in for training here: judge scores by `ntksel validate`."
    details = {
        "accuracy": float(right.mean()), "model_accuracy": float(own.mean()),
        "most_frequent": float((work.test_answers == np.bincount(work.answers).argmax()).mean()),
        "accuracy_by_form": by_form,
    }  # fmt: skip
    name = "accuracy, minus the model's"
    return Check("regression", name, found.value, found.low, found.high, sentence.strip(), details)


def _panel(request: Request, work: _Work, predicted: Rows) -> Points:
    found = [accuracy(each == work.test_answers) for each in (predicted, work.predicted)]
    frequent = float((work.test_answers == np.bincount(work.answers).argmax()).mean())
    return Points(
        "Accuracy on the test items; dotted: the domain's most frequent answer",
        "accuracy",
        ["kernel regression", request.run[0]],
        [one.value for one in found],
        [one.low for one in found],
        [one.high for one in found],
        mark=frequent,
    )


def _work(stored: store.Store, request: Request) -> _Work:
    if len(request.run) != 1:
        raise UsageError("diagnose regression compares with one run.", "Give --run once.")
    name = f"evals/{store.check_name(str(request.eval_name), '--eval')}/{store.check_name(request.run[0], '--run')}"
    evaluated = stored.get(name)
    stored.check_parents(evaluated)
    if "loglik" not in evaluated.arrays:
        raise UsageError(f"{name} has tasks without choices.", "Give an eval whose items have choices.")
    named = [f"{task}={path}" for task, path in zip(evaluated.attrs["tasks"], evaluated.attrs["inputs"], strict=True)]
    items = load_tasks(
        named, columns=request.columns, split=request.split, scorer=Scorer.CHOICES, on_error=request.on_error
    )
    if [task.digest for task in items.tasks] != evaluated.spec["tasks"]:
        raise SpecError(
            f"{name} was made from other items than its files hold.", "Run `ntksel eval` again under another --name."
        )
    domain = resolve_rows(
        stored, str(request.domain), option="--domain", columns=request.columns, split=request.split,
        on_error=request.on_error,
    )  # fmt: skip
    rows = [row for row in domain if isinstance(row, Row)]
    predicted, answers = evaluated.read("prediction"), evaluated.read("answer")
    test = [(row, i) for i, row in enumerate(items.rows) if isinstance(row, Row) and predicted[i] >= 0]
    choices = _choices([*rows, *(row for row, _ in test)], str(request.domain), name)
    setup = _setup(stored, request, evaluated)
    learnt, kept = _blind(setup, request, str(request.domain), rows, domain.spec)
    asked, there = _blind(setup, request, name, [row for row, _ in test], {"eval": evaluated.fingerprint})
    places = np.array([i for _, i in test], dtype=np.int64)[there]
    return _Work(
        setup, (learnt, asked), choices, np.array([rows[i].answer for i in kept], dtype=np.int64),
        answers[places].astype(np.int64), predicted[places].astype(np.int64),
    )  # fmt: skip


def _setup(stored: store.Store, request: Request, evaluated: store.Artefact) -> Setup:
    """Of the model that was evaluated, which the run names."""
    run = stored.find(f"runs/{request.run[0]}")
    model = request.model or (str(run.attrs["model"]) if run is not None else None)
    if model is None:
        raise UsageError(f"The store has no run {request.run[0]!r} that names its model.", "Give --model.")
    setup = set_up(request, model=model, max_length=MAX_LENGTH)
    if setup.model.spec != evaluated.spec["model"]:
        raise SpecError(
            f"{evaluated.name} was made with another model than {model}.", "Give --model the model that was evaluated."
        )
    return setup


def _choices(rows: Sequence[Row], domain: str, evaluated: str) -> tuple[str, ...]:
    """The choices of all rows. DataError if some have others, or none."""
    found = {row.choices for row in rows}
    if len(found) != 1 or found == {()}:
        raise DataError(
            f"The rows of {domain} and of {evaluated} don't all have the same choices, which would be the classes.",
            "Give a domain and an eval of one task of classification.",
        )
    return next(iter(found))


def _blind(
    setup: Setup, request: Request, label: str, rows: Sequence[Row], spec: dict[str, Any]
) -> tuple[Side, list[int]]:
    """The rows with the constant completion in place of their answers, encoded, and which of them can be."""
    kept: list[int] = []
    encoded: list[Encoded] = []
    for i, row in enumerate(rows):
        blind = replace(row, messages=(*row.messages[:-1], Message("assistant", COMPLETION)), choices=(), answer=None)
        try:
            encoded.append(setup.encoder.encode(blind))
        except RowError as error:
            if request.on_error == OnError.FAIL:
                raise DataError(
                    f"{row.place}: {error.reason}.", "Fix the row, or give --on-error skip to leave such rows out."
                ) from error
            continue
        kept.append(i)
    side = Side(
        label, tuple(rows[i] for i in kept), tuple(encoded), len(rows), len(rows) - len(kept),
        {**spec, "completion": COMPLETION},
    )  # fmt: skip
    return side, kept
