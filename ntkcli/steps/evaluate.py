"""Evaluate runs on tasks, all on the same items, part by part, and compare them with a baseline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import store
from ntkcli.answers import AnswerPattern
from ntkcli.data import Encoder
from ntkcli.data.files import OnError
from ntkcli.errors import UsageError
from ntkcli.identity import AdapterIdentity, ModelIdentity, refuse_other_base, resolve_adapter, resolve_model
from ntkcli.progress import Progress, Silent
from ntkcli.statistics import Difference, group_seeds
from ntkcli.steps.evaluation_summary import EvaluateResult, summarise
from ntkcli.steps.feature_arrays import refuse_without_room
from ntkcli.steps.inputs import (
    encoder_spec,
    kept_data,
    note_conversion,
    open_store,
    require_spec,
    run_parent,
    settle_dtype,
)
from ntkcli.steps.item_scores import ScorerSettings, item_arrays, refuse_unusable, score_part
from ntkcli.steps.tasks import Items, load_tasks

if TYPE_CHECKING:
    from ntkcli.engine.evaluation import Evaluator

VERSION = 1
"""Of the evaluation, in every spec: goes up when the same items would get other values."""
BASE = "base"
"""The run that is the model without any adapter."""
HARNESS = "lm_eval:"
"""What a task of lm-evaluation-harness begins with."""
PART_ROWS = 64
"""Items of a part: what a kill can lose, some seconds to a minute."""
NORMALISATIONS = ("sum", "tokens", "characters")


@dataclass(frozen=True, slots=True)
class Plan:
    """All that an evaluation is made of, checked, before a model is loaded: a run's name → its adapter, None for base.

    `spec` is that of every run, but for its adapter; `known` are the runs of this eval that the store has.
    """

    stored: store.Store
    name: str
    identity: ModelIdentity
    items: Items
    settings: ScorerSettings
    adapters: dict[str, AdapterIdentity | None]
    parents: dict[str, dict[str, str]]
    spec: dict[str, Any]
    known: dict[str, store.Artefact]

    def run_spec(self, run: str) -> dict[str, Any]:
        """The spec of one run."""
        adapter = self.adapters[run]
        return {**self.spec, "adapter": adapter.spec if adapter else None}


def evaluate(
    store_path: str | Path,
    *,
    model: str,
    run: Sequence[str],
    task: Sequence[str | Path],
    name: str,
    retain: Sequence[str | Path] = (),
    scorer: str = "auto",
    normalise: str = "sum",
    max_new_tokens: int = 128,
    answer_pattern: str | None = None,
    baseline: str | None = None,
    max_length: int = 1024,
    dtype: str = "auto",
    device: str = "auto",
    batch_tokens: int | None = None,
    on_error: OnError = "fail",
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    thinking: bool | None = None,
    trust_remote_code: bool = False,
    export: str | Path | None = None,
    progress: Progress | None = None,
) -> EvaluateResult:
    """Write `evals/<name>/<run>` for every run: an adapter of the store, a folder with one, `base`, or an arm's seeds.

    `scorer`, for a task: `choices` (the choice with the highest log-likelihood given the prompt, end of turn
    included, divided as `normalise` says), `generate` (greedy, compared with the answer) or `loss` (perplexity of the
    answer); `auto` is `choices` where rows have choices, else `generate`. `retain` are tasks of general ability.
    Runs `x.s0`, `x.s1` are seeds of the arm `x`; all arms are compared with the `baseline` arm, by default the first.
    `export` writes every item (.jsonl). `columns`, `split`: `ntkcli.data.DataFile`, for every task; `thinking`:
    `ntkcli.data.Encoder`.

    Raises:
        UsageError, DataError: a run, a task or an item can't be used.
        store.SpecDiffersError: an eval of this name has other tasks or settings.
        SpecError: an adapter is of another base model, or not whole.
    """
    progress = progress or Silent()
    if any(str(each).startswith(HARNESS) for each in (*task, *retain)):
        from ntkcli.steps.harness import evaluate_harness

        return evaluate_harness(
            store_path,
            model=model,
            run=run,
            task=[str(each) for each in task],
            retain=[str(each) for each in retain],
            name=name,
            baseline=baseline,
            max_length=max_length,
            dtype=dtype,
            device=device,
            batch_tokens=batch_tokens,
            trust_remote_code=trust_remote_code,
            export=export,
            progress=progress,
        )
    plan = make_plan(
        store_path,
        model=model,
        run=run,
        task=task,
        name=name,
        retain=retain,
        scorer=scorer,
        normalise=normalise,
        max_new_tokens=max_new_tokens,
        answer_pattern=answer_pattern,
        max_length=max_length,
        dtype=dtype,
        device=device,
        on_error=on_error,
        columns=columns,
        split=split,
        thinking=thinking,
        trust_remote_code=trust_remote_code,
        create=True,
    )
    check_baseline(plan, baseline)
    if export is not None:
        from ntkcli.steps.evaluation_export import check_export

        check_export(export)
    artefacts: dict[str, store.Artefact] = {}
    evaluator: Evaluator | None = None
    for run_name, adapter in plan.adapters.items():
        artefact = artefacts[run_name] = _create(plan, run_name)
        if not artefact.pending():
            progress.note(f"{artefact.name} is finished already")
            continue
        refuse_without_room(artefact, artefact.pending(), instead="")
        if evaluator is None:
            note_conversion(plan.identity, progress)
            evaluator = _load(plan, device, max_length, batch_tokens, thinking, on_error)
        evaluator.use(adapter, plan.identity)
        _run(artefact, plan, evaluator, progress)
    result = summarise(artefacts, name=name, baseline=baseline, items=plan.items)
    if export is not None:
        from ntkcli.steps.evaluation_export import write_export

        write_export(export, artefacts, plan.items, result, spec=plan.spec, model=plan.identity.reference)
    return result


def make_plan(
    store_path: str | Path,
    *,
    model: str,
    run: Sequence[str],
    task: Sequence[str | Path],
    name: str,
    retain: Sequence[str | Path] = (),
    scorer: str = "auto",
    normalise: str = "sum",
    max_new_tokens: int = 128,
    answer_pattern: str | None = None,
    max_length: int = 1024,
    dtype: str = "auto",
    device: str = "auto",
    on_error: OnError = "fail",
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    thinking: bool | None = None,
    trust_remote_code: bool = False,
    create: bool = False,
) -> Plan:
    """Everything looked up and checked, as `evaluate` does it; nothing is computed. Arguments and errors are its."""
    store.check_name(name, "--name")
    if not run or not task:
        raise UsageError("There is nothing to evaluate.", "Give at least one --run and one --task.")
    if any(str(each).startswith(HARNESS) for each in (*task, *retain)):
        raise UsageError("--dry-run can't tell what tasks of lm_eval take.", "Leave it out for these.")
    if normalise not in NORMALISATIONS or max_new_tokens < 1:
        raise UsageError(f"--normalise must be one of {', '.join(NORMALISATIONS)}; --max-new-tokens 1 or more.")
    settings = ScorerSettings(normalise, max_new_tokens, AnswerPattern(answer_pattern) if answer_pattern else None)
    identity = resolve_model(model, trust_remote_code=trust_remote_code)
    stored = open_store(store_path, create=create)
    items = load_tasks(
        [str(kept_data(stored, path)) for path in task],
        retain=[str(kept_data(stored, path)) for path in retain],
        scorer=scorer,
        columns=columns,
        split=split,
        on_error=on_error,
    )
    adapters, parents = find_runs(stored, run, identity)
    known = {
        artefact.name.rpartition("/")[2]: artefact
        for artefact in stored.artefacts(store.Kind.EVAL)
        if artefact.name.startswith(f"evals/{name}/")
    }
    spec = {
        "version": VERSION,
        "model": identity.spec,
        "encoder": encoder_spec(max_length, thinking),
        "tasks": [task.digest for task in items.tasks],
        **settings.spec(items.scorers),
        "dtype": settle_dtype(dtype, device, next(iter(known.values()), None)),
    }
    for artefact in known.values():  # one eval is one table: same base model, same items, same settings
        require_spec(artefact, {**spec, "adapter": artefact.spec["adapter"]})
    return Plan(stored, name, identity, items, settings, adapters, parents, spec, known)


def check_baseline(plan: Plan, baseline: str | None) -> None:
    """UsageError, before anything is computed, if the baseline is none of the arms."""
    require_baseline(list(plan.adapters), baseline)


def require_baseline(runs: Sequence[str], baseline: str | None) -> None:
    """UsageError if the baseline is none of the arms that these runs make."""
    arms = group_seeds(runs)
    if baseline is not None and baseline not in arms:
        raise UsageError(
            f"--baseline {baseline} is none of the runs evaluated here.", f"Give one of: {', '.join(arms)}."
        )


def summary(store_path: str | Path, *, name: str, runs: Sequence[str], baseline: str | None = None) -> EvaluateResult:
    """The result of finished runs of an eval, without tables of classes; the baseline is by default the first."""
    stored = open_store(store_path)
    return summarise({run: stored.get(f"evals/{name}/{run}") for run in runs}, name=name, baseline=baseline)


def compare(store_path: str | Path, *, name: str, run: str, baseline: str) -> Difference:
    """How one run of an eval compares with another, on the average of its tasks or its only one."""
    found = summary(store_path, name=name, runs=[baseline, run]).scores[-1].difference
    if found is None:
        raise UsageError(f"{run} can't be compared with itself.", "Give two runs.")
    return found


def find_runs(
    stored: store.Store, references: Sequence[str], identity: ModelIdentity
) -> tuple[dict[str, AdapterIdentity | None], dict[str, dict[str, str]]]:
    """Adapter and parents of each run by its name, an arm's seeds one by one; checked to be of this base model."""
    adapters: dict[str, AdapterIdentity | None] = {}
    parents: dict[str, dict[str, str]] = {}
    for reference in (one for given in references for one in _seeds_of(stored, given)):
        name = _run_name(reference)
        if name in adapters:
            raise UsageError(
                f"--run {reference}: a run called {name!r} is given twice.",
                "Give each run once; folders need names of their own.",
            )
        adapters[name] = None
        if reference != BASE:
            adapter = resolve_adapter(reference, adapters=stored.path / "adapters", option="--run")
            refuse_other_base(adapter, identity)
            adapters[name] = adapter
        parents[name] = run_parent(stored, None if reference == BASE else reference)  # refuses changed training rows
    return adapters, parents


def _seeds_of(stored: store.Store, reference: str) -> list[str]:
    """The run itself; for the name of an arm that is no run, its seeds `NAME.s0`, `NAME.s1`, ... in order."""
    if "/" in reference or reference == BASE or (stored.path / "adapters" / reference).is_dir():
        return [reference]
    seed = re.compile(rf"{re.escape(reference)}\.s(\d+)")
    runs = [artefact.name.partition("/")[2] for artefact in stored.artefacts(store.Kind.RUN)]
    found = sorted((int(match[1]), run) for run in runs if (match := seed.fullmatch(run)))
    return [run for _, run in found] or [reference]


def _run_name(reference: str) -> str:
    name = reference if reference == BASE else Path(reference).resolve().name if "/" in reference else reference
    return store.check_name(name, "--run")


def _create(plan: Plan, run: str) -> store.Artefact:
    retained = [task.name for task in plan.items.tasks if task.retained]
    artefact = plan.stored.create(
        f"evals/{plan.name}/{run}",
        kind=store.Kind.EVAL,
        spec=plan.run_spec(run),
        parents=plan.parents[run],
        n=len(plan.items.rows),
        part_rows=PART_ROWS,
        arrays=item_arrays(plan.items),
    )
    attrs: dict[str, Any] = {
        "tasks": [task.name for task in plan.items.tasks],
        "files": [task.file for task in plan.items.tasks if task.file],
        **({"retained": retained} if retained or "retained" in artefact.attrs else {}),
    }
    if any(artefact.attrs.get(key) != value for key, value in attrs.items()):
        artefact.note(**attrs)  # names may change from call to call: no value depends on them
    return artefact


def _load(
    plan: Plan, device: str, max_length: int, batch_tokens: int | None, thinking: bool | None, on_error: OnError
) -> Evaluator:
    """The base model; before its weights are loaded, items that can't be encoded are refused unless they may be."""
    from ntkcli.engine.evaluation import Evaluator
    from ntkcli.engine.models import load_model, load_tokenizer

    encoder = Encoder(load_tokenizer(plan.identity), max_length=max_length, thinking=thinking)
    if on_error == "fail":
        refuse_unusable(plan.items, encoder)
    loaded = load_model(plan.identity, dtype=str(plan.spec["dtype"]), device=device)
    return Evaluator(loaded, encoder, batch_tokens=batch_tokens)


def _run(artefact: store.Artefact, plan: Plan, evaluator: Evaluator, progress: Progress) -> None:
    """Compute the pending parts of one run, whose adapter is in use."""
    progress.start(artefact.name, total=artefact.n, unit="items", done=artefact.rows_done())
    for part in artefact.pending():
        bounds = artefact.part_bounds(part)
        arrays, tokens = score_part(plan.items, bounds, evaluator, plan.settings)
        artefact.write_part(part, arrays)
        progress.advance(bounds[1] - bounds[0], tokens=tokens)
    progress.stop()
