"""Evaluate runs on tasks of lm-evaluation-harness: it prepares items and makes metrics, our engine computes answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import store
from ntkcli.choices import Dtype
from ntkcli.data import Encoder
from ntkcli.errors import UsageError
from ntkcli.identity import end_of_text_spec, resolve_model
from ntkcli.progress import Progress
from ntkcli.steps.evaluation.export import check_export, publish_export
from ntkcli.steps.evaluation.plan import HARNESS, find_runs, known_runs, require_baseline
from ntkcli.steps.evaluation.summary import HARNESS_SCORER, EvaluateResult, summarise
from ntkcli.steps.shared.environment import begin, model_environment
from ntkcli.steps.shared.model_settings import encoder_spec, note_conversion, settle_dtype
from ntkcli.steps.shared.outputs import Inputs
from ntkcli.steps.shared.stores import is_store, open_store, require_spec

if TYPE_CHECKING:
    from ntkcli.engine.evaluation.lm_eval_run import HarnessRun
    from ntkcli.engine.evaluation.lm_eval_tasks import HarnessTasks

VERSION = 2
"""Of this way of evaluating, in every spec."""
OF_TASKS = ("adapter", "tasks", "eos_token_id")
"""Fields of the spec that are known last."""
PART_ROWS = 4096
"""Items of a part; a run is computed as a whole, because the harness makes its metrics at the end."""


def evaluate_harness(
    store_path: str | Path,
    *,
    model: str,
    run: Sequence[str],
    task: Sequence[str],
    retain: Sequence[str],
    name: str,
    baseline: str | None,
    num_fewshot: int | None,
    limit: int | None,
    apply_chat_template: bool,
    max_length: int,
    dtype: Dtype,
    device: str,
    batch_tokens: int | None,
    thinking: bool | None,
    trust_remote_code: bool,
    export: str | Path | None,
    force: bool,
    progress: Progress,
) -> EvaluateResult:
    """Write `evals/<name>/<run>` for every run on tasks `lm_eval:NAME` or `lm_eval:FILE.yaml`; a finished run stands.

    Prompts, few-shot examples and metrics are the harness's. Each run's results in its own shape are the attribute
    `results`, and go to `export`.

    Raises:
        UsageError: lm_eval is not installed, doesn't know a task, or other tasks are among them.
    """
    _check_call(name, run, [*task, *retain] if task else [], thinking if not apply_chat_template else None)
    if export is not None:
        stored_already = open_store(store_path) if is_store(store_path) else None
        check_export(export, Inputs((), (model, *run)), stored_already, force=force)
    harness_version = _harness_version()
    identity = resolve_model(model, trust_remote_code=trust_remote_code)
    stored = open_store(store_path, create=True)
    adapters, parents = find_runs(stored, run, identity)
    require_baseline(list(adapters), baseline)
    known = known_runs(stored, name)
    from ntkcli.engine.evaluation.lm_eval_tasks import TaskOptions, load_harness_tasks

    options = TaskOptions(num_fewshot, limit, apply_chat_template)
    spec: dict[str, Any] = {
        "version": VERSION,
        "model": identity.spec,
        "encoder": encoder_spec(max_length, thinking),
        **options.spec(),
        "scorer": HARNESS_SCORER,
        "lm_eval": harness_version,
        "dtype": settle_dtype(dtype, device, next(iter(known.values()), None)),
    }
    _require_table(known, spec)  # other options than before: said before tasks are looked up, whose digests follow them
    wanted, retained = ([each.removeprefix(HARNESS) for each in references] for references in (task, retain))
    tasks = load_harness_tasks(wanted, retained, options, trust=trust_remote_code)
    for note in tasks.notes:
        progress.note(note)
    spec |= {"tasks": tasks.digests} | (end_of_text_spec(identity) if tasks.generates else {})
    _require_table(known, spec)
    order = [str(each) for each in next(iter(known.values())).attrs["tasks"]] if known else list(tasks.tasks)
    artefacts: dict[str, store.Artefact] = {}
    evaluator: Any = None
    for run_name, adapter in adapters.items():
        own = {**spec, "adapter": adapter.spec if adapter else None}
        if (found := known.get(run_name)) is not None:
            require_spec(found, own)
            if found.complete:
                progress.note(f"{found.name} is finished already")
                artefacts[run_name] = _kept(found, tasks)
                continue
        from ntkcli.engine.evaluation.evaluator import Evaluator
        from ntkcli.engine.evaluation.lm_eval_run import run_harness
        from ntkcli.engine.models.limits import refuse_too_long
        from ntkcli.engine.models.loading import load_model

        if evaluator is None:
            note_conversion(identity, progress)
            refuse_too_long(identity, max_length, "An item as long as --max-length")
            loaded = load_model(identity, dtype=str(spec["dtype"]), device=device)
            _require_template(loaded.tokenizer, apply_chat_template, model)
            evaluator = Evaluator(loaded, Encoder(loaded.tokenizer, max_length=max_length), batch_tokens=batch_tokens)
        evaluator.use(adapter, identity)
        progress.note(f"evals/{name}/{run_name}: {', '.join(order)} by lm_eval")
        results = run_harness(
            evaluator,
            tasks,
            options,
            max_length=max_length,
            progress=progress,
            thinking=thinking,
            trust=trust_remote_code,
        )
        place = f"evals/{name}/{run_name}"
        artefacts[run_name] = artefact = _create(stored, place, own, parents[run_name], order, results, tasks)
        now = model_environment(identity, evaluator.loaded, "lm_eval", "datasets", generates=tasks.generates)
        begin(artefact, now, progress)
        _write(artefact, order, results)
    if export is not None:
        _export(export, artefacts)
    return summarise(artefacts, name=name, baseline=baseline)


def _check_call(name: str, run: Sequence[str], task: Sequence[str], bare_thinking: bool | None) -> None:
    """UsageError for options that contradict each other."""
    store.check_name(name, "--name")
    if not run or not task:
        raise UsageError("There is nothing to evaluate.", "Give at least one --run and one --task.")
    if other := [each for each in task if not each.startswith(HARNESS)]:
        raise UsageError(
            f"--task {other[0]} and tasks of lm_eval can't be in one eval.", "Give each kind a --name of its own."
        )
    if bare_thinking is not None:
        raise UsageError("--thinking is a setting of the chat template.", "Give --apply-chat-template with it.")


def _require_table(known: Mapping[str, store.Artefact], spec: dict[str, Any]) -> None:
    """Refuse settings that another run of the eval does not have: one eval is one table."""
    for artefact in known.values():
        kept = {key: artefact.spec[key] for key in OF_TASKS if key in artefact.spec and key not in spec}
        require_spec(artefact, {**kept, **spec})


def _harness_version() -> str:
    try:
        return version("lm_eval")
    except PackageNotFoundError as error:
        raise UsageError("Tasks lm_eval:NAME need the package lm_eval.", "pip install 'ntksel[lm-eval]'") from error


def _require_template(tokenizer: Any, wanted: bool, model: str) -> None:
    if wanted and not tokenizer.chat_template:
        raise UsageError(
            f"--apply-chat-template: the tokenizer of {model} has no chat template.", "Leave the option out."
        )


def _task_attributes(tasks: HarnessTasks) -> dict[str, Any]:
    """What a call says of tasks that no value depends on."""
    return {"retained": list(tasks.retained), "groups": tasks.averaged()}


def _kept(found: store.Artefact, tasks: HarnessTasks) -> store.Artefact:
    attrs = _task_attributes(tasks)
    if any(found.attrs.get(key) != value for key, value in attrs.items()):
        found.note(**attrs)
    return found


def _create(
    stored: store.Store,
    name: str,
    spec: Mapping[str, Any],
    parents: Mapping[str, str],
    order: Sequence[str],
    run: HarnessRun,
    tasks: HarnessTasks,
) -> store.Artefact:
    """The artefact of a run, with the harness's totals as an attribute; its items are not written yet."""
    return stored.create(
        name,
        kind=store.Kind.EVAL,
        spec=spec,
        parents=parents,
        n=sum(len(run.items[task].value) for task in order),
        part_rows=PART_ROWS,
        arrays={
            "value": store.ArraySpec("float64"),
            "weight": store.ArraySpec("float64"),
            "task": store.ArraySpec("int32"),
            "status": store.ArraySpec("uint8", attrs=store.status_attrs()),
        },
        attrs={
            "tasks": list(order),
            "files": [],
            **_task_attributes(tasks),
            "metrics": {task: run.items[task].attribute() for task in order},
            "results": _as_json(run.results),
        },
    )


def _write(artefact: store.Artefact, order: Sequence[str], run: HarnessRun) -> None:
    """The items' main metrics, task by task in the eval's order."""
    items = [run.items[task] for task in order]
    value = np.concatenate([each.value for each in items])
    finite = np.isfinite(value)
    cut = [(task, doc) in run.truncated for task, each in zip(order, items, strict=True) for doc in each.doc_ids]
    status = np.where(cut, store.RowStatus.TRUNCATED, store.RowStatus.OK).astype(np.uint8)
    status[~finite] = store.RowStatus.NON_FINITE
    arrays = {
        "value": np.where(finite, value, np.nan),
        "weight": np.concatenate([each.weight for each in items]),
        "task": np.repeat(np.arange(len(order), dtype=np.int32), [len(each.value) for each in items]),
        "status": status,
    }
    for part in artefact.pending():
        start, stop = artefact.part_bounds(part)
        artefact.write_part(part, {key: values[start:stop] for key, values in arrays.items()})


def _as_json(value: Any) -> Any:
    """The harness's results without what JSON has no word for: NaN and infinity as null, all else as text."""
    plain = json.loads(json.dumps(value, default=str))

    def finite(each: Any) -> Any:
        if isinstance(each, dict):
            return {key: finite(inner) for key, inner in each.items()}
        if isinstance(each, list):
            return [finite(inner) for inner in each]
        return None if isinstance(each, float) and not math.isfinite(each) else each

    return finite(plain)


def _export(path: str | Path, artefacts: Mapping[str, store.Artefact]) -> None:
    """The harness's results of the run, by run if there are several (.json); or each item's main metric (.jsonl)."""
    if Path(path).suffix == ".json":
        totals = {run: artefact.attrs["results"] for run, artefact in artefacts.items()}
        document = next(iter(totals.values())) if len(totals) == 1 else totals
        publish_export(path, json.dumps(document, indent=2).encode() + b"\n", artefacts)
        return
    lines = []
    for run, artefact in artefacts.items():
        names = artefact.attrs["tasks"]
        metrics = artefact.attrs["metrics"]
        columns = zip(artefact.read("value").tolist(), artefact.read("task").tolist(), strict=True)
        for value, code in columns:
            task = names[code]
            number = value if math.isfinite(value) else None
            lines.append(json.dumps({"run": run, "task": task, "metric": metrics[task]["metric"], "value": number}))
    publish_export(path, "".join(f"{line}\n" for line in lines).encode(), artefacts)
