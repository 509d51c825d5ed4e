"""Evaluate runs on tasks of lm-evaluation-harness: it prepares items and makes metrics, our engine computes answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli.data import Encoder
from ntkcli.digests import home_path
from ntkcli.errors import UsageError
from ntkcli.identity import resolve_model
from ntkcli.progress import Progress
from ntkcli.steps.evaluation.export import check_export
from ntkcli.steps.evaluation.plan import HARNESS, find_runs, require_baseline
from ntkcli.steps.evaluation.summary import HARNESS_SCORER, EvaluateResult, summarise
from ntkcli.steps.shared.model_settings import note_conversion, settle_dtype
from ntkcli.steps.shared.stores import open_store, require_spec

VERSION = 1
"""Of this way of evaluating, in every spec."""
PART_ROWS = 4096
"""Items of a part; a run is computed as a whole, because the harness makes its metrics at the end."""
MAIN_METRICS = ("acc", "exact_match", "f1")
"""The metric of an item that runs are compared by: the first of these that a task has, else the task's first."""


def evaluate_harness(
    store_path: str | Path,
    *,
    model: str,
    run: Sequence[str],
    task: Sequence[str],
    retain: Sequence[str],
    name: str,
    baseline: str | None,
    max_length: int,
    dtype: str,
    device: str,
    batch_tokens: int | None,
    trust_remote_code: bool,
    export: str | Path | None,
    progress: Progress,
) -> EvaluateResult:
    """Write `evals/<name>/<run>` for every run on tasks `lm_eval:NAME` or `lm_eval:FILE.yaml`; a finished run stands.

    Prompts, few-shot examples and metrics are the harness's. Each run's results in its own shape are the attribute
    `results`, and go to `export`.

    Raises:
        UsageError: lm_eval is not installed, doesn't know a task, or other tasks are among them.
    """
    store.check_name(name, "--name")
    references = [*task, *retain]
    if other := [each for each in references if not each.startswith(HARNESS)]:
        raise UsageError(
            f"--task {other[0]} and tasks of lm_eval can't be in one eval.", "Give each kind a --name of its own."
        )
    if export is not None:
        check_export(export)
    tasks = [each.removeprefix(HARNESS) for each in references]
    identity = resolve_model(model, trust_remote_code=trust_remote_code)
    stored = open_store(store_path, create=True)
    adapters, parents = find_runs(stored, run, identity)
    require_baseline(list(adapters), baseline)
    known = {each: artefact for each in adapters if (artefact := stored.find(f"evals/{name}/{each}")) is not None}
    spec: dict[str, Any] = {
        "version": VERSION,
        "model": identity.spec,
        "encoder": {"max_length": max_length},
        "tasks": tasks,
        "scorer": HARNESS_SCORER,
        "lm_eval": _harness_version(),
        "dtype": settle_dtype(dtype, device, next(iter(known.values()), None)),
    }
    artefacts: dict[str, store.Artefact] = {}
    evaluator: Any = None
    for run_name, adapter in adapters.items():
        own = {**spec, "adapter": adapter.spec if adapter else None}
        if (found := known.get(run_name)) is not None:
            require_spec(found, own)
            if found.complete:
                progress.note(f"{found.name} is finished already")
                artefacts[run_name] = found
                continue
        from ntkcli.engine.evaluation.evaluator import Evaluator
        from ntkcli.engine.evaluation.lm_eval import run_harness
        from ntkcli.engine.models.loading import load_model

        if evaluator is None:
            note_conversion(identity, progress)
            loaded = load_model(identity, dtype=str(spec["dtype"]), device=device)
            evaluator = Evaluator(loaded, Encoder(loaded.tokenizer, max_length=max_length), batch_tokens=batch_tokens)
        evaluator.use(adapter, identity)
        progress.note(f"evals/{name}/{run_name}: {', '.join(tasks)} by lm_eval")
        results = run_harness(evaluator, tasks, max_length=max_length, progress=progress)
        artefacts[run_name] = _write(stored, f"evals/{name}/{run_name}", own, parents[run_name], results, len(task))
    if export is not None:
        _export(home_path(export), artefacts)
    return summarise(artefacts, name=name, baseline=baseline)


def _harness_version() -> str:
    try:
        return version("lm_eval")
    except PackageNotFoundError as error:
        raise UsageError("Tasks lm_eval:NAME need the package lm_eval.", "pip install 'ntksel[lm-eval]'") from error


def _write(
    stored: store.Store,
    name: str,
    spec: Mapping[str, Any],
    parents: Mapping[str, str],
    results: Mapping[str, Any],
    n_tasks: int,
) -> store.Artefact:
    """The items' main metrics, task by task in the harness's order, and its totals as an attribute."""
    values: dict[str, list[float]] = {task: _main_values(rows) for task, rows in results["samples"].items()}
    names = list(values)
    artefact = stored.create(
        name,
        kind=store.Kind.EVAL,
        spec=spec,
        parents=parents,
        n=sum(map(len, values.values())),
        part_rows=PART_ROWS,
        arrays={
            "value": store.ArraySpec("float64"),
            "task": store.ArraySpec("int32"),
            "status": store.ArraySpec("uint8", attrs=store.status_attrs()),
        },
        attrs={
            "tasks": names,
            "files": [],
            "retained": names[n_tasks:],
            "results": json.loads(json.dumps({k: v for k, v in results.items() if k != "samples"}, default=str)),
        },
    )
    value = np.array([x for task in names for x in values[task]], dtype=np.float64)
    codes = np.repeat(np.arange(len(names), dtype=np.int32), [len(values[task]) for task in names])
    for part in artefact.pending():
        start, stop = artefact.part_bounds(part)
        zeros = np.zeros(stop - start, dtype=np.uint8)
        artefact.write_part(part, {"value": value[start:stop], "task": codes[start:stop], "status": zeros})
    return artefact


def _main_values(samples: Sequence[Mapping[str, Any]]) -> list[float]:
    """The main metric of each item, under the first of the task's filters."""
    first = samples[0].get("filter")
    kept = [sample for sample in samples if sample.get("filter") == first]
    metrics = [str(metric) for metric in kept[0].get("metrics", [])]
    numbers = [metric for metric in metrics if isinstance(kept[0].get(metric), int | float)]
    metric = next((name for name in MAIN_METRICS if name in numbers), numbers[0] if numbers else None)
    if metric is None:
        raise UsageError(
            f"its metrics ({', '.join(metrics) or 'none'}) are not of single items, so runs can't be compared on them.",
            "Choose a task with acc, exact_match or another metric of items.",
        )
    return [float(sample[metric]) for sample in sorted(kept, key=lambda sample: int(sample["doc_id"]))]


def _export(file: Path, artefacts: Mapping[str, store.Artefact]) -> None:
    """The harness's results of the run, by run if there are several (.json); or each item's main metric (.jsonl)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        totals = {run: artefact.attrs["results"] for run, artefact in artefacts.items()}
        document = next(iter(totals.values())) if len(totals) == 1 else totals
        store.write_bytes(file, json.dumps(document, indent=2).encode() + b"\n")
        return
    lines = []
    for run, artefact in artefacts.items():
        names = artefact.attrs["tasks"]
        for value, code in zip(artefact.read("value").tolist(), artefact.read("task").tolist(), strict=True):
            lines.append(json.dumps({"run": run, "task": names[code], "value": value}))
    store.write_bytes(file, "".join(f"{line}\n" for line in lines).encode())
