"""Evaluate runs on tasks, all on the same items, part by part, and compare them with a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import store
from ntkcli.choices import Dtype, Normalise, OnError, Scorer, TextAs
from ntkcli.data.references import split_name
from ntkcli.errors import UsageError
from ntkcli.group import ALONE as NOBODY
from ntkcli.group import Group
from ntkcli.progress import Progress, Silent
from ntkcli.steps.evaluation.item_tokens import ItemTokens, refuse_long_items, refuse_unusable
from ntkcli.steps.evaluation.plan import Plan, check_baseline, make_plan
from ntkcli.steps.evaluation.scorers import item_arrays, score_part
from ntkcli.steps.evaluation.settings import MAX_NEW_TOKENS, EvaluationSettings
from ntkcli.steps.evaluation.summary import EvaluateResult, summarise
from ntkcli.steps.shared.disk_room import refuse_without_room
from ntkcli.steps.shared.environment import begin, model_environment
from ntkcli.steps.shared.model_settings import note_conversion
from ntkcli.steps.shared.non_finite import settle_non_finite
from ntkcli.steps.shared.outputs import Inputs
from ntkcli.steps.shared.release import frees_memory
from ntkcli.steps.shared.shards import ALONE, Shard, wait_for_others
from ntkcli.steps.shared.sharing import end_share, mine
from ntkcli.steps.shared.stores import is_store, open_store

if TYPE_CHECKING:
    from ntkcli.engine.evaluation.evaluator import Evaluator

PART_ROWS = 64
"""Items of a part: what a kill can lose, some seconds to a minute."""


def evaluate(
    store_path: str | Path, *, model: str, run: Sequence[str], task: Sequence[str | Path], name: str,
    retain: Sequence[str | Path] = (), scorer: Scorer = Scorer.AUTO, normalise: Normalise = Normalise.SUM,
    max_new_tokens: int = MAX_NEW_TOKENS, answer_pattern: str | None = None, baseline: str | None = None,
    max_length: int = 1024, dtype: Dtype = Dtype.AUTO, device: str = "auto", batch_tokens: int | None = None,
    on_error: OnError = OnError.FAIL, columns: Mapping[str, str] | None = None, split: str | None = None,
    thinking: bool | None = None, text_as: TextAs = TextAs.CHAT, num_fewshot: int | None = None,
    limit: int | None = None, apply_chat_template: bool = False, trust_remote_code: bool = False,
    export: str | Path | None = None, force: bool = False, shard: Shard = ALONE, processes: Group = NOBODY,
    progress: Progress | None = None,
) -> EvaluateResult:  # fmt: skip
    """Write `evals/<name>/<run>` for every run: an adapter of the store, a folder with one, `base`, or an arm's seeds.

    `scorer`, for a task: `choices` (the choice with the highest log-likelihood given the prompt, end of turn
    included, divided as `normalise` says), `generate` (greedy, compared with the answer) or `loss` (perplexity of the
    answer); `auto` is `choices` where rows have choices, `loss` for raw texts, else `generate`. `retain` are tasks of
    general ability. Runs `x.s0`, `x.s1` are seeds of the arm `x`; all arms are compared with the `baseline` arm, by
    default the first. `export` writes every item (.jsonl) or totals (.json), over a file that is not ours only with
    `force`. `columns`, `split`: `ntkcli.data.DataFile`, for every task; `thinking`, `text_as`: `ntkcli.data.Encoder`.
    `shard` (i, n): one of n processes, which take the parts in turns; each waits for the others' at the end.
    `processes`: those that hold the model together. `num_fewshot`, `limit` (items of each task) and
    `apply_chat_template` are of tasks `lm_eval:NAME`.

    Raises:
        UsageError, DataError: a run, a task or an item can't be used.
        store.SpecDiffersError: an eval of this name has other tasks or settings.
        SpecError: an adapter is of another base model, or not whole.
    """
    given = locals().copy()
    del given["store_path"], given["progress"], given["shard"]
    asked, progress = EvaluationSettings.of(**given), progress or Silent()
    asked.check_options()
    if asked.by_harness:
        if shard != ALONE:
            raise UsageError(
                f"--task lm_eval:NAME is for one process, and this is one of {shard[1]}.",
                "Start it once, without torchrun or srun.",
            )
        from ntkcli.steps.evaluation.lm_eval import evaluate_harness

        return evaluate_harness(store_path, asked, progress)
    return evaluate_runs(store_path, asked, progress, shard)


@frees_memory
def evaluate_runs(
    store_path: str | Path, asked: EvaluationSettings, progress: Progress, shard: Shard = ALONE
) -> EvaluateResult:
    """The runs on tasks of our own, as the settings ask for them; of several processes the first one exports."""
    from ntkcli.steps.evaluation.export import check_export, write_export

    if asked.export is not None:
        read = Inputs(
            [split_name(str(each))[1] for each in (*asked.task, *asked.retain)], (asked.use.model, *asked.run)
        )
        stored = open_store(store_path) if is_store(store_path) else None
        check_export(asked.export, read, stored, force=asked.force)
    plan = make_plan(store_path, asked, create=True)
    check_baseline(plan, asked.baseline)
    artefacts: dict[str, store.Artefact] = {}
    loaded: tuple[Evaluator, ItemTokens] | None = None
    shared = asked.use.processes.count > 1
    for run_name, adapter in plan.adapters.items():
        artefact = artefacts[run_name] = _create(plan, run_name)
        pending = mine(artefact, artefact.pending(shard))
        if artefact.complete:
            progress.note(f"{artefact.name} is finished already")
        if artefact.complete or not (pending or shared):
            continue
        refuse_without_room(artefact, pending, instead="")
        if loaded is None:
            note_conversion(plan.identity, progress)
            loaded = _load(plan, progress)
        if not pending:  # of processes that share the model each computes with the others
            continue
        evaluator, tokens = loaded
        evaluator.use(adapter, plan.identity)
        generates = "generate" in plan.items.scorers
        begin(artefact, model_environment(plan.identity, evaluator.loaded, generates=generates), progress)
        _run(artefact, pending, plan, evaluator, tokens, progress)
    if loaded is not None:
        loaded[0].end()
    end_share()
    wait_for_others(list(artefacts.values()), shard, progress)
    result = summarise(artefacts, name=asked.name, baseline=asked.baseline, items=plan.items)
    if asked.export is not None and shard[0] == 0:
        write_export(asked.export, artefacts, plan.items, result, spec=plan.spec, model=plan.identity.reference)
    return result


def summary(store_path: str | Path, *, name: str, runs: Sequence[str], baseline: str | None = None) -> EvaluateResult:
    """The result of finished runs of an eval, without tables of classes; the baseline is by default the first."""
    stored = open_store(store_path)
    return summarise({run: stored.get(f"evals/{name}/{run}") for run in runs}, name=name, baseline=baseline)


def _create(plan: Plan, run: str) -> store.Artefact:
    if plan.stored is None:
        raise ValueError("a plan without a store is for estimates only")
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
        "inputs": [task.source for task in plan.items.tasks],
        **({"retained": retained} if retained or "retained" in artefact.attrs else {}),
    }
    if any(artefact.attrs.get(key) != value for key, value in attrs.items()):
        artefact.note(**attrs)  # names may change from call to call: no value depends on them
    return artefact


def _load(plan: Plan, progress: Progress) -> tuple[Evaluator, ItemTokens]:
    """The base model; before its weights are loaded, items that can't be encoded are refused unless they may be."""
    from ntkcli.engine.evaluation.evaluator import Evaluator
    from ntkcli.engine.evaluation.loglikelihood import shares_prefixes
    from ntkcli.engine.models.loading import load_tokenizer
    from ntkcli.engine.models.sharding import load_shared

    use = plan.asked.use
    encoder = use.encoder(load_tokenizer(plan.identity))
    if encoder.form:
        progress.note(encoder.form)
    tokens = ItemTokens(plan.items, encoder)
    if plan.asked.reading.on_error == OnError.FAIL:
        refuse_unusable(tokens)
    refuse_long_items(tokens, plan.identity, plan.settings.max_new_tokens)
    dtype = str(plan.spec["dtype"])
    loaded = load_shared(plan.identity, dtype=dtype, device=use.device, processes=use.processes, look=shares_prefixes)
    return Evaluator(loaded, encoder, batch_tokens=use.batch_tokens), tokens


def _run(
    artefact: store.Artefact,
    pending: Sequence[int],
    plan: Plan,
    evaluator: Evaluator,
    tokens: ItemTokens,
    progress: Progress,
) -> None:
    """Compute these parts of one run, whose adapter is in use."""
    run = artefact.name.rpartition("/")[2]
    progress.start(artefact.name, total=artefact.n, unit="items", done=artefact.rows_done())
    for part in pending:
        bounds = artefact.part_bounds(part)
        arrays, n_tokens = score_part(tokens, bounds, evaluator, plan.settings)
        bad = np.flatnonzero(arrays["status"] == store.RowStatus.NON_FINITE)
        rows = [plan.items.rows[bounds[0] + i] for i in bad]
        settle_non_finite(f"values under {run}", rows, on_error=plan.asked.reading.on_error, progress=progress)
        artefact.write_part(part, arrays)
        progress.advance(bounds[1] - bounds[0], tokens=n_tokens)
    progress.stop()
