"""Evaluate runs on multiple-choice tasks by log-likelihood, all on the same items, and compare them in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import BadRow, DataFile, Encoded, Encoder, Row, RowError, scan
from ntkcli.data.files import OnError
from ntkcli.errors import DataError, UsageError
from ntkcli.identity import AdapterIdentity, ModelIdentity, resolve_adapter, resolve_model
from ntkcli.progress import Progress, Silent
from ntkcli.statistics import Accuracy, PairedDifference, accuracy, paired_difference
from ntkcli.steps.feature_arrays import refuse_without_room
from ntkcli.steps.inputs import encoder_spec, note_conversion, open_store, rows_in_order, run_parent, settle_dtype

if TYPE_CHECKING:
    from ntkcli.engine.evaluation import Evaluator

VERSION = 1
"""Of the evaluation, in every spec: goes up when the same items would get other values."""
BASE = "base"
"""The run that is the model without any adapter."""
PART_ROWS = 64
"""Items of a part: what a kill can lose, some seconds to a minute."""


@dataclass(frozen=True, slots=True)
class RunScore:
    """A run on a task ("all" for all tasks together): its accuracy, and its difference from the first run."""

    run: str
    task: str
    accuracy: Accuracy
    difference: PairedDifference | None


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """The eval's name, its first run (the baseline), the scores run by run, and how many items could not be used."""

    artefact: str
    baseline: str
    scores: tuple[RunScore, ...]
    items: int
    truncated: int
    skipped: int
    digests: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Items:
    """The items of all tasks in a row: `task` (n,) int32 is a position in `names`; `digests` are the files'.

    `files` are those that `select` looks for leaks of: read as they are, without renamed columns or a split.
    """

    rows: list[Row | BadRow]
    task: NDArray[np.int32]
    names: list[str]
    digests: list[str]
    files: list[str]

    @property
    def n_choices(self) -> int:
        return max(len(row.choices) for row in self.rows if isinstance(row, Row))


def evaluate(
    store_path: str | Path,
    *,
    model: str,
    run: Sequence[str],
    task: Sequence[str | Path],
    name: str,
    max_length: int = 1024,
    dtype: str = "auto",
    device: str = "auto",
    batch_tokens: int | None = None,
    on_error: OnError = "fail",
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    thinking: bool | None = None,
    progress: Progress | None = None,
) -> EvaluateResult:
    """Write `evals/<name>/<run>` for every run: an adapter of the store, a folder with one, or `base`.

    Each choice's log-likelihood given the prompt is the sum over its tokens, end of turn included; the highest is the
    prediction. Accuracy has a Wilson 95% interval; runs after the first are compared with it on the same items.
    `columns`, `split`: `ntkcli.data.DataFile`, for every task; `thinking`: `ntkcli.data.Encoder`.

    Raises:
        UsageError, DataError: a run, a task or an item can't be used.
        store.SpecDiffersError: an eval of this name has other tasks or settings.
    """
    progress = progress or Silent()
    store.check_name(name, "--name")
    if not run or not task:
        raise UsageError("There is nothing to evaluate.", "Give at least one --run and one --task.")
    identity = resolve_model(model)
    stored = open_store(store_path, create=True)
    items = _load_items([str(path) for path in task], columns, split, on_error)
    adapters = {
        _run_name(reference): None
        if reference == BASE
        else resolve_adapter(reference, adapters=stored.path / "adapters")
        for reference in run
    }
    # Refuses a run whose training rows have changed.
    parents = {_run_name(reference): run_parent(stored, None if reference == BASE else reference) for reference in run}
    if len(adapters) < len(run):
        raise UsageError("Two --run have the same name.", "Rename the folder of one of them.")
    evaluator: Evaluator | None = None
    artefacts: dict[str, store.Artefact] = {}
    for run_name, adapter in adapters.items():
        known = stored.find(f"evals/{name}/{run_name}")
        spec = {
            "version": VERSION,
            "model": identity.spec,
            "adapter": adapter.spec if adapter else None,
            "encoder": encoder_spec(max_length, thinking),
            "tasks": items.digests,
            "scorer": "choices",
            "dtype": settle_dtype(dtype, device, known),
        }
        artefact = stored.create(
            f"evals/{name}/{run_name}",
            kind=store.Kind.EVAL,
            spec=spec,
            parents=parents[run_name],
            n=len(items.rows),
            part_rows=PART_ROWS,
            arrays=_arrays(items.n_choices),
            attrs={"tasks": items.names, "files": items.files},
        )
        artefacts[run_name] = artefact
        pending = artefact.pending()
        refuse_without_room(artefact, pending, instead="")
        if pending:
            if evaluator is None:
                note_conversion(identity, progress)
                evaluator = _load(identity, str(spec["dtype"]), device, max_length, batch_tokens, thinking)
            _run(artefact, pending, items, evaluator, adapter, identity, on_error, progress)
        else:
            progress.note(f"{artefact.name} is finished already")
    return summary(store_path, name=name, runs=list(artefacts))


def summary(store_path: str | Path, *, name: str, runs: Sequence[str]) -> EvaluateResult:
    """The scores of finished runs of an eval, task by task, each after the first compared with it."""
    stored = open_store(store_path)
    artefacts = {run: stored.get(f"evals/{name}/{run}") for run in runs}
    first = artefacts[runs[0]]
    status, task_codes, names = first.read("status"), first.read("task"), list(first.attrs["tasks"])
    usable = status < store.RowStatus.UNREADABLE
    correct = {run: artefact.read("correct").astype(np.bool_) for run, artefact in artefacts.items()}
    masks = {task: usable & (task_codes == code) for code, task in enumerate(names)}
    if len(names) > 1:
        masks["all"] = usable
    scores = [
        RunScore(
            run=run,
            task=task,
            accuracy=accuracy(values[mask]),
            difference=None if run == runs[0] else paired_difference(values[mask], correct[runs[0]][mask]),
        )
        for task, mask in masks.items()
        for run, values in correct.items()
    ]
    return EvaluateResult(
        artefact=f"evals/{name}",
        baseline=runs[0],
        scores=tuple(scores),
        items=int(usable.sum()),
        truncated=int((status == store.RowStatus.TRUNCATED).sum()),
        skipped=int((~usable).sum()),
        digests={run: artefact.digest() for run, artefact in artefacts.items()},
    )


def compare(store_path: str | Path, *, name: str, run: str, baseline: str) -> PairedDifference:
    """How one run of an eval compares with another, over all its tasks' items."""
    found = summary(store_path, name=name, runs=[baseline, run]).scores[-1].difference
    if found is None:
        raise UsageError(f"{run} can't be compared with itself.", "Give two runs.")
    return found


def _load_items(
    tasks: Sequence[str], columns: Mapping[str, str] | None, split: str | None, on_error: OnError
) -> _Items:
    rows: list[Row | BadRow] = []
    codes: list[int] = []
    digests: list[str] = []
    files: list[str] = []
    names = [Path(task).name.split(".")[0] for task in tasks]
    for code, task in enumerate(tasks):
        file = DataFile(task, columns=columns, split=split)
        scanned = scan(file, on_error=on_error)
        digests.append(scanned.digest)
        files += [file.reference] if columns is None and split is None else []
        found = list(rows_in_order(file, None, scanned.status))
        if not any(isinstance(row, Row) and row.choices for row in found):
            raise DataError(
                f"--task {task}: its rows have no choices (the file is {file.schema.name}).",
                "Give rows with prompt, choices and answer.",
            )
        rows += found
        codes += [code] * len(found)
    return _Items(rows, np.array(codes, dtype=np.int32), names, digests, files)


def _run_name(reference: str) -> str:
    name = reference if reference == BASE else Path(reference).resolve().name if "/" in reference else reference
    return store.check_name(name, "--run")


def _arrays(n_choices: int) -> dict[str, store.ArraySpec]:
    return {
        "loglik": store.ArraySpec("float64", (n_choices,)),
        "prediction": store.ArraySpec("int32"),
        "answer": store.ArraySpec("int32"),
        "correct": store.ArraySpec("uint8"),
        "task": store.ArraySpec("int32"),
        "status": store.ArraySpec("uint8", attrs=store.status_attrs()),
    }


def _load(
    identity: ModelIdentity, dtype: str, device: str, max_length: int, batch_tokens: int | None, thinking: bool | None
) -> Evaluator:
    from ntkcli.engine.evaluation import Evaluator
    from ntkcli.engine.models import load_model

    loaded = load_model(identity, dtype=dtype, device=device)
    return Evaluator(
        loaded, Encoder(loaded.tokenizer, max_length=max_length, thinking=thinking), batch_tokens=batch_tokens
    )


def _run(
    artefact: store.Artefact,
    pending: Sequence[int],
    items: _Items,
    evaluator: Evaluator,
    adapter: AdapterIdentity | None,
    identity: ModelIdentity,
    on_error: OnError,
    progress: Progress,
) -> None:
    """Compute the pending parts of one run."""
    evaluator.use(adapter, identity)
    progress.start(artefact.name, total=artefact.n, unit="items", done=artefact.rows_done())
    for part in pending:
        start, stop = artefact.part_bounds(part)
        n = stop - start
        encoded: list[list[Encoded]] = []
        status = np.zeros(n, dtype=np.uint8)
        for i in range(n):
            code, choices = _encode(items, start + i, evaluator.encoder, on_error)
            status[i] = code
            encoded.append(choices)
        good = np.flatnonzero(status < store.RowStatus.UNREADABLE)
        loglik = np.full((n, artefact.arrays["loglik"].tail[0]), np.nan)
        for row, values in zip(good, evaluator.logliks([encoded[i] for i in good]), strict=True):
            loglik[row, : len(values)] = values
        answer = np.array(
            [row.answer if isinstance(row, Row) and row.answer is not None else -1 for row in items.rows[start:stop]],
            dtype=np.int32,
        )
        prediction = np.full(n, -1, dtype=np.int32)
        prediction[good] = np.nanargmax(loglik[good], axis=1)
        arrays = {
            "loglik": loglik,
            "prediction": prediction,
            "answer": answer,
            "correct": ((prediction == answer) & (prediction >= 0)).astype(np.uint8),
            "task": items.task[start:stop],
            "status": status,
        }
        artefact.write_part(part, arrays)
        progress.advance(n, tokens=sum(len(choice.ids) for choices in encoded for choice in choices))
    progress.stop()


def _encode(items: _Items, index: int, encoder: Encoder, on_error: OnError) -> tuple[int, list[Encoded]]:
    row = items.rows[index]
    if isinstance(row, BadRow):
        return row.status, []
    try:
        choices = encoder.encode_choices(row)
    except RowError as error:
        if on_error == "fail":
            raise DataError(
                f"{row.place}: {error.reason}.",
                "Mend the row, or give --on-error skip to leave such rows out.",
            ) from error
        return int(error.status), []
    truncated = any(choice.truncated for choice in choices)
    return int(store.RowStatus.TRUNCATED if truncated else store.RowStatus.OK), choices
