"""An evaluation for other programs: every item as a line of JSON, or totals in the shape of lm-evaluation-harness."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli import __version__
from ntkcli.data import Row
from ntkcli.errors import UsageError
from ntkcli.steps.evaluation.items import Items
from ntkcli.steps.evaluation.summary import EvaluateResult, RunMeasures
from ntkcli.steps.shared.outputs import Inputs, check_output, output_path, write_output

HARNESS_NAMES = {"accuracy": "acc", "token_f1": "f1"}
"""Measures that lm-evaluation-harness knows by another name."""


def check_export(path: str | Path, inputs: Inputs, stored: store.Store | None, *, force: bool) -> None:
    """UsageError if the file can't be of a form that is known, or must not be written:
    `ntkcli.steps.shared.outputs`."""
    if Path(path).suffix not in (".jsonl", ".json"):
        raise UsageError(f"--export {path}: no known form.", "Give a name in .jsonl (items) or .json (totals).")
    check_output(path, option="--export", inputs=inputs, stored=stored, force=force, parents=True)


def publish_export(path: str | Path, data: bytes, artefacts: Mapping[str, store.Artefact]) -> None:
    """Write an export of these runs' artefacts, and its manifest; the folder is made where there is none."""
    output_path(path).parent.mkdir(parents=True, exist_ok=True)
    made = {run: {"artefact": each.name, "fingerprint": each.fingerprint} for run, each in artefacts.items()}
    write_output(path, data, {"runs": made})


def write_export(
    path: str | Path,
    artefacts: Mapping[str, store.Artefact],
    items: Items,
    result: EvaluateResult,
    *,
    spec: Mapping[str, Any],
    model: str,
) -> None:
    """Write the items of all runs (.jsonl), or totals in the harness's shape (.json), by run if there are several."""
    if Path(path).suffix == ".jsonl":
        lines = (json.dumps(record, ensure_ascii=False, allow_nan=False) for record in item_records(artefacts, items))
        publish_export(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"), artefacts)
        return
    totals = {run: harness_totals(result, run, spec=spec, model=model) for run in artefacts}
    document = next(iter(totals.values())) if len(totals) == 1 else totals
    publish_export(path, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n", artefacts)


def item_records(artefacts: Mapping[str, store.Artefact], items: Items) -> Iterator[dict[str, Any]]:
    """Every item of every run: where it stands, what was right, what the run said."""
    for run, artefact in artefacts.items():
        columns = {name: artefact.read(name) for name in artefact.arrays}
        for i, row in enumerate(items.rows):
            task = items.tasks[int(items.task[i])]
            record: dict[str, Any] = {"run": run, "task": task.name, "scorer": task.scorer, "index": row.index}
            status = store.RowStatus(int(columns["status"][i]))
            record |= {
                "id": row.row_id if isinstance(row, Row) else None,
                "line": row.line,
                "status": status.name.lower(),
            }
            if isinstance(row, Row) and status.has_values:
                record |= _said(task.scorer, row, {name: values[i] for name, values in columns.items()})
            yield record


def _said(scorer: str, row: Row, values: Mapping[str, Any]) -> dict[str, Any]:
    if scorer == "loss":
        return {"nll": _number(values["nll"]), "tokens": int(values["tokens"])}
    said: dict[str, Any] = {"correct": bool(values["correct"])}
    if row.choices:
        prediction = int(values["prediction"])
        said |= {"choices": list(row.choices), "answer": int(values["answer"])}
        said["prediction"] = prediction if prediction >= 0 else None
    else:
        said["reference"] = row.messages[-1].content
    if scorer == "choices":
        said["loglik"] = [_number(value) for value in values["loglik"][: len(row.choices)]]
    else:
        said |= {
            "text": str(values["text"]),
            "extracted": str(values["extracted"]) or None,
            "f1": _number(values["f1"]),
        }
    return said


def harness_totals(result: EvaluateResult, run: str, *, spec: Mapping[str, Any], model: str) -> dict[str, Any]:
    """One run's totals in the shape of lm-evaluation-harness's results: `results.<task>["acc,none"]` and so on."""
    found = [measures for measures in result.runs if measures.run == run]
    return {
        "results": {one.task: _harness_metrics(one) for one in found},
        "group_subtasks": {one.task: [] for one in found},
        "configs": {one.task: {"task": one.task, "output_type": one.scorer} for one in found},
        "versions": dict.fromkeys((one.task for one in found), int(spec["version"])),
        "n-shot": dict.fromkeys((one.task for one in found), 0),
        "n-samples": {one.task: {"original": one.n, "effective": one.n} for one in found},
        "config": {"model": model, "model_args": {"peft": None if run == "base" else run}, "dtype": spec["dtype"]},
        "made_by": f"ntksel {__version__}",
    }


def _harness_metrics(one: RunMeasures) -> dict[str, Any]:
    metrics: dict[str, Any] = {"alias": one.task}
    for name, value in one.measures.items():
        known = HARNESS_NAMES.get(name, name)
        metrics[f"{known},none"] = _number(value)
        if name in ("accuracy", "exact_match") and one.n > 1:  # the harness's: sample deviation of 0 and 1 over √n
            metrics[f"{known}_stderr,none"] = math.sqrt(value * (1 - value) / (one.n - 1))
    return metrics


def _number(value: Any) -> float | None:
    number = float(np.asarray(value))
    return number if math.isfinite(number) else None
