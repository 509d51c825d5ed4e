"""Evaluate runs on tasks of lm-evaluation-harness: it prepares items and makes metrics, our engine computes answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import store
from ntkcli.data import Encoder
from ntkcli.errors import UsageError
from ntkcli.finite import finite, to_json
from ntkcli.identity import AdapterIdentity, ModelIdentity, end_of_text_spec
from ntkcli.progress import Progress
from ntkcli.steps.evaluation.export import check_export, publish_export
from ntkcli.steps.evaluation.plan import find_runs, known_runs, require_baseline
from ntkcli.steps.evaluation.settings import HARNESS, EvaluationSettings
from ntkcli.steps.evaluation.summary import HARNESS_SCORER, EvaluateResult, summarise
from ntkcli.steps.shared.environment import begin, model_environment
from ntkcli.steps.shared.model_settings import note_conversion
from ntkcli.steps.shared.outputs import Inputs
from ntkcli.steps.shared.release import frees_memory
from ntkcli.steps.shared.stores import is_store, open_store, require_spec

if TYPE_CHECKING:
    from ntkcli.engine.evaluation.evaluator import Evaluator
    from ntkcli.engine.evaluation.lm_eval_run import HarnessRun
    from ntkcli.engine.evaluation.lm_eval_tasks import HarnessTasks, TaskOptions

VERSION = 2
"""Of this way of evaluating, in every spec."""
OF_TASKS = ("adapter", "tasks", "eos_token_id")
"""Fields of the spec that are known last."""
PART_ROWS = 4096
"""Items of a part; a run is computed as a whole, because the harness makes its metrics at the end."""


@frees_memory
def evaluate_harness(store_path: str | Path, asked: EvaluationSettings, progress: Progress) -> EvaluateResult:
    """Write `evals/<name>/<run>` for every run on tasks `lm_eval:NAME` or `lm_eval:FILE.yaml`, but finished ones.

    Prompts, few-shot examples and metrics are the harness's. Each run's results in its own shape are the attribute
    `results`, and go to `export`.

    Raises:
        UsageError: lm_eval is not installed, doesn't know a task, or other tasks are among them.
    """
    _check_call(asked)
    if asked.export is not None:
        stored_already = open_store(store_path) if is_store(store_path) else None
        check_export(asked.export, Inputs((), (asked.use.model, *asked.run)), stored_already, force=asked.force)
    harness_version = _harness_version()
    identity = asked.use.resolve()
    stored = open_store(store_path, create=True)
    adapters, parents = find_runs(stored, asked.run, identity)
    require_baseline(list(adapters), asked.baseline)
    known = known_runs(stored, asked.name)
    from ntkcli.engine.evaluation.lm_eval_tasks import TaskOptions, load_harness_tasks

    options = TaskOptions(asked.harness.num_fewshot, asked.harness.limit, asked.harness.apply_chat_template)
    spec: dict[str, Any] = {
        "version": VERSION,
        "model": identity.spec,
        "encoder": asked.use.encoder_spec(),
        **options.spec(),
        "scorer": HARNESS_SCORER,
        "lm_eval": harness_version,
        "dtype": asked.use.settle_dtype(next(iter(known.values()), None)),
    }
    _require_table(known, spec)  # other options than before are refused before tasks, whose digests depend on them
    wanted, retained = ([str(each).removeprefix(HARNESS) for each in tasks] for tasks in (asked.task, asked.retain))
    tasks = load_harness_tasks(wanted, retained, options, trust=asked.use.trust_remote_code)
    for note in tasks.notes:
        progress.note(note)
    spec |= {"tasks": tasks.digests} | (end_of_text_spec(identity) if tasks.generates else {})
    _require_table(known, spec)
    order = [str(each) for each in next(iter(known.values())).attrs["tasks"]] if known else list(tasks.tasks)
    work = _Work(stored, asked, identity, options, tasks, order, progress)
    artefacts: dict[str, store.Artefact] = {}
    for run, adapter in adapters.items():
        own = {**spec, "adapter": adapter.spec if adapter else None}
        if (found := known.get(run)) is not None:
            require_spec(found, own)
            if found.complete:
                progress.note(f"{found.name} is finished already")
                artefacts[run] = _kept(found, tasks)
                continue
        artefacts[run] = work.compute(run, adapter, own, parents[run])
    if asked.export is not None:
        _export(asked.export, artefacts)
    return summarise(artefacts, name=asked.name, baseline=asked.baseline)


@dataclass(slots=True)
class _Work:
    """Runs that are to be computed; the model is loaded for the first."""

    stored: store.Store
    asked: EvaluationSettings
    identity: ModelIdentity
    options: TaskOptions
    tasks: HarnessTasks
    order: Sequence[str]
    progress: Progress
    evaluator: Evaluator | None = None

    def compute(
        self, run: str, adapter: AdapterIdentity | None, spec: Mapping[str, Any], parents: Mapping[str, str]
    ) -> store.Artefact:
        """Compute one run and write it."""
        from ntkcli.engine.evaluation.lm_eval_run import run_harness

        place = f"evals/{self.asked.name}/{run}"
        self.evaluator = evaluator = self.evaluator or self._load(str(spec["dtype"]))
        evaluator.use(adapter, self.identity)
        self.progress.note(f"{place}: {', '.join(self.order)} by lm_eval")
        results = run_harness(
            evaluator,
            self.tasks,
            self.options,
            max_length=self.asked.use.max_length,
            progress=self.progress,
            thinking=self.asked.use.thinking,
            trust=self.asked.use.trust_remote_code,
        )
        artefact = _create(self.stored, place, spec, parents, self.order, results, self.tasks)
        generates = self.tasks.generates
        now = model_environment(self.identity, evaluator.loaded, "lm_eval", "datasets", generates=generates)
        begin(artefact, now, self.progress)
        _write(artefact, self.order, results)
        return artefact

    def _load(self, dtype: str) -> Evaluator:
        from ntkcli.engine.evaluation.evaluator import Evaluator
        from ntkcli.engine.models.limits import refuse_too_long
        from ntkcli.engine.models.loading import load_model

        use = self.asked.use
        note_conversion(self.identity, self.progress)
        refuse_too_long(self.identity, use.max_length, "An item as long as --max-length")
        loaded = load_model(self.identity, dtype=dtype, device=use.device)
        _require_template(loaded.tokenizer, self.asked.harness.apply_chat_template, use.model)
        encoder = Encoder(loaded.tokenizer, max_length=use.max_length)
        return Evaluator(loaded, encoder, batch_tokens=use.batch_tokens)


def _check_call(asked: EvaluationSettings) -> None:
    """UsageError for options that contradict each other."""
    store.check_name(asked.name, "--name")
    if not asked.run or not asked.task:
        raise UsageError("There is nothing to evaluate.", "Give at least one --run and one --task.")
    if other := [str(each) for each in (*asked.task, *asked.retain) if not str(each).startswith(HARNESS)]:
        raise UsageError(
            f"--task {other[0]} and tasks of lm_eval can't be in one eval.", "Give each kind a --name of its own."
        )
    if asked.use.thinking is not None and not asked.harness.apply_chat_template:
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
    return finite(json.loads(json.dumps(value, default=str)))


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
            lines.append(to_json({"run": run, "task": task, "metric": metrics[task]["metric"], "value": value}))
    publish_export(path, "".join(f"{line}\n" for line in lines).encode(), artefacts)
