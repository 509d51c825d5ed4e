"""`ntksel eval`: parse, call the step, show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntkcli import options as o
from ntkcli.choices import Dtype, Normalise, OnError, Scorer, TextAs
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.formatting import class_tables, comparison_table, estimate_line, measures_table
from ntkcli.help_panels import Command, examples

if TYPE_CHECKING:
    from ntkcli.steps.evaluation.summary import EvaluateResult

EXAMPLE = "ntksel eval med --model ./Llama-3-8B --run base --run mixed --task test.jsonl --name test"
SECOND = "ntksel eval med --model ./Llama-3-8B --run mixed --task medmcqa --export items.jsonl --name medmcqa"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(name="eval", cls=Command, epilog=examples(EXAMPLE, SECOND))(evaluate)


def evaluate(
    context: typer.Context,
    store: o.Store,
    model: o.Model,
    run: Annotated[
        list[str],
        typer.Option(
            help="What to evaluate: base, a run of the store, an arm (all its seeds NAME.s0, NAME.s1, ...) or the "
            "folder of an adapter; repeatable.",
            show_default=False,
        ),
    ],
    task: Annotated[
        list[str],
        typer.Option(
            help="Items with prompt, choices and answer, or prompt and completion: [NAME=]FILE, folder, Hub id, "
            "a task of `ntksel tasks`, lm_eval:NAME or -; repeatable.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the evaluation in the store.", show_default=False)],
    baseline: Annotated[
        str | None, typer.Option(help="The run or arm that all others are compared with.", show_default="the first")
    ] = None,
    retain: Annotated[
        list[str] | None,
        typer.Option(
            help="A task that measures general ability, shown next to the others; repeatable.", show_default=False
        ),
    ] = None,
    scorer: Annotated[
        Scorer,
        typer.Option(
            help="How to score items. auto: choices if items have them, loss for raw texts, "
            "else generate; loss: perplexity."
        ),
    ] = Scorer.AUTO,
    normalise: Annotated[
        Normalise,
        typer.Option(
            "--normalise",
            "--normalize",
            help="choices: what the log-likelihood of a choice is divided by: nothing, its tokens or its characters.",
        ),
    ] = Normalise.SUM,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="generate: longest answer, in tokens.")] = 128,
    answer_pattern: Annotated[
        str | None,
        typer.Option(
            help="generate: regular expression; the answer is the first group of its last match.",
            show_default="the whole answer",
        ),
    ] = None,
    max_length: o.MaxLength = 1024,
    dtype: o.DtypeOption = Dtype.AUTO,
    device: o.Device = "auto",
    batch_tokens: o.BatchTokens = None,
    shard_model: o.ShardModel = False,
    ray: o.Ray = None,
    on_error: o.OnErrorOption = OnError.FAIL,
    columns: o.Columns = None,
    split: o.Split = None,
    thinking: o.ThinkingOption = None,
    text_as: o.TextAsOption = TextAs.CHAT,
    num_fewshot: Annotated[
        int | None,
        typer.Option(
            min=0, help="lm_eval: how many examples are shown before each question.", show_default="each task's own"
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="lm_eval: use only the first N items of each task.", show_default="all"),
    ] = None,
    apply_chat_template: Annotated[
        bool,
        typer.Option(
            "--apply-chat-template", help="lm_eval: render prompts with the model's chat template, examples as turns."
        ),
    ] = False,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run Python code from the model's folder or a task's YAML file; recorded in the spec.",
        ),
    ] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also show tables per class, where all items have the same choices.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write every item of every run (.jsonl), or totals in the shape of lm-evaluation-harness (.json).",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw every run as a point with its 95% interval: .png or .svg.", show_default="no picture"),
    ] = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Evaluate runs on the same items, with intervals and paired tests."""
    from ntkcli.commands.on_ranks import holders
    from ntkcli.commands.on_ray import share_own
    from ntkcli.data.references import split_name
    from ntkcli.steps.evaluation import evaluate as step
    from ntkcli.steps.shared.outputs import Inputs
    from ntkcli.steps.shared.pictures import check_picture, write_arms
    from ntkcli.steps.shared.stores import is_store, open_store

    shard = o.own_shard_of("eval", task=[split_name(each)[1] for each in task])
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    arguments: dict[str, Any] = {
        "model": model,
        "run": run,
        "task": task,
        "name": name,
        "retain": retain or [],
        "scorer": scorer,
        "normalise": normalise,
        "max_new_tokens": max_new_tokens,
        "answer_pattern": answer_pattern,
        "max_length": max_length,
        "dtype": dtype,
        "device": o.own_device(device),
        "on_error": on_error,
        "columns": o.parse_columns(columns),
        "split": split,
        "thinking": o.is_on(thinking),
        "text_as": text_as,
        "trust_remote_code": trust_remote_code,
        "num_fewshot": num_fewshot,
        "limit": limit,
        "apply_chat_template": apply_chat_template,
        "baseline": baseline,
        "batch_tokens": batch_tokens,
        "export": export,
        "force": force,
    }
    if dry_run and not shard_model:
        o.refuse_ranks("eval --dry-run")
        from ntkcli.steps.evaluation.dry_run import estimate_evaluation
        from ntkcli.steps.evaluation.plan import check_baseline, make_plan
        from ntkcli.steps.evaluation.settings import EvaluationSettings

        asked = EvaluationSettings.of(**arguments)
        plan = make_plan(store, asked)
        asked.check_options()
        check_baseline(plan, baseline)
        found = estimate_evaluation(plan)
        output.result(found, line=estimate_line(found))
        return ExitCode.OK
    files = [split_name(each)[1] for each in (*task, *(retain or ()))]
    stored = open_store(store) if is_store(store) else None
    check_picture(plot, inputs=Inputs(files, (model,)), stored=stored, force=force)
    share_own(context, ray, store, output)
    with holders(shard_model, arguments["device"], dry_run=dry_run) as processes:
        result = step.evaluate(store, **arguments, shard=shard, processes=processes, progress=output.progress)
    if shard[0] > 0:  # the first process shows the result
        return ExitCode.ROWS_SKIPPED if result.skipped else ExitCode.OK
    if plot is not None:
        write_arms(plot, [("", result.baseline, result.scores)], kind="eval")
    if json:
        output.result(result, line="")
    else:
        _show(output, result, per_class=per_class)
    return ExitCode.ROWS_SKIPPED if result.skipped else ExitCode.OK


def _show(output: Output, result: EvaluateResult, *, per_class: bool) -> None:
    output.table(*comparison_table(result))
    if (measures := measures_table(result)) is not None:
        output.say("")
        output.table(*measures)
    for table in class_tables(result) if per_class else []:
        output.say("")
        output.table(*table)
    output.say(f"{result.items} items, {result.truncated} truncated, {result.skipped} skipped")
    for sentence in result.sentences:
        output.say(sentence)
