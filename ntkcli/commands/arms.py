"""`ntksel arms`: plan the comparison, run its commands, show."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntkcli import options as o
from ntkcli import training_options as t
from ntkcli.choices import Dtype, Equalise, LossPer, OnError, Preset, Schedule, TextAs
from ntkcli.commands import chain
from ntkcli.console import Output
from ntkcli.engine.gradients.registry import PROBES
from ntkcli.errors import ExitCode
from ntkcli.help_panels import Command, examples
from ntkcli.kernel_presets import PRESETS
from ntkcli.steps.scores.registry import SCORES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntkcli.statistics import ArmScore
    from ntkcli.steps.pipelines.arms_report import ArmsResult
    from ntkcli.steps.splits.overlap import Overlap

EXAMPLE = (
    "ntksel arms med --model ./Llama-3-8B --domain domain.jsonl --pool pool.jsonl --task test.jsonl -n 9000 "
    "--seeds 0,1,2"
)
SECOND = (
    "ntksel arms med --model ./Llama-3-8B --domain domain.jsonl --pool pool.jsonl --task test.jsonl -n 900 "
    "--arms base,domain,random,selected --dry-run"
)


@dataclass(frozen=True, slots=True)
class ArmsPlan:
    """What a dry run shows: the arms, the commands that make them, and each task's items that are domain rows."""

    arms: dict[str, str]
    commands: tuple[str, ...]
    overlap: dict[str, Overlap]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(EXAMPLE, SECOND))(arms)


def arms(
    store: o.Store,
    model: o.Model,
    domain: Annotated[str, typer.Option(help="Rows of the domain: a data file, or TASK@SPLIT.", show_default=False)],
    task: Annotated[
        list[str], typer.Option(help="Task to evaluate on, as in `ntksel eval`; repeatable.", show_default=False)
    ],
    pool: Annotated[
        str | None, typer.Option(help="Rows to choose from: a data file or Hub id.", show_default="none")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, help="Budget: how many rows to take from the pool.", show_default="--token-budget"),
    ] = None,
    token_budget: Annotated[
        int | None, typer.Option(min=1, help="Budget in tokens instead of rows.", show_default="-n")
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Arms to compare, separated by commas (docs/arms.md); also dsir, rds, random-selected.",
            metavar="ARM,...",
            show_default="base,domain,domain-steps,random,random-length,embedding,preselect-random,bm25,selected",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of draws and training; one run each.", metavar="S,...")] = "0",
    baseline: Annotated[
        str | None,
        typer.Option(help="The arm that all others are compared with.", show_default="random, else domain, else base"),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many sets of random rows the arm random draws; one run each.",
            show_default="the preset's, 5",
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Instead of -n: a comparison for each of these numbers of rows, and the gain over them as a curve.",
            metavar="N,...",
            show_default="-n",
        ),
    ] = None,
    equalise: Annotated[
        Equalise | None,
        typer.Option(
            "--equalise",
            "--equalize",
            help="What all arms have in common besides the domain's rows. steps, rows: -n rows each; tokens: as many "
            "tokens as the selected rows.",
            show_default="steps; tokens with --token-budget",
        ),
    ] = None,
    domain_repeat: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="How often each arm's rows hold each domain row.",
            show_default="as often as the pool's rows",
        ),
    ] = None,
    oracle: Annotated[
        str | None,
        typer.Option(
            help="Add an arm of pool rows known to be right: a file of ids or rows, or source=LABEL,... for the pool's "
            "labels.",
            metavar="FILE|source=A,...",
            show_default="none",
        ),
    ] = None,
    coarse: Annotated[
        int | None, typer.Option(min=1, help="How many rows the pre-selection keeps.", show_default="4 x -n")
    ] = None,
    preset: Annotated[
        Preset, typer.Option(help="Settings of the kernel: those that measured best, or those of the paper.")
    ] = Preset.DEFAULT,
    probe: Annotated[
        list[str] | None,
        o.named(PROBES, "Direction in logit space, one kernel arm per probe; repeatable.", show_default="the preset's"),
    ] = None,
    probes: Annotated[int, typer.Option(min=1, help="rademacher, centred: how many directions are averaged.")] = 1,
    method: Annotated[
        str | None,
        o.named(
            SCORES,
            "How the kernel scores, with --centre if that is given: mean, cosine, ...",
            show_default="the preset's",
        ),
    ] = None,
    centre: Annotated[
        bool | None,
        typer.Option(
            "--centre/--no-centre",
            "--center/--no-center",
            help="Subtract the pool's mean feature in that score.",
            show_default="the preset's, with its method",
        ),
    ] = None,
    dim: Annotated[int, typer.Option(min=1, help="How many numbers a kernel feature has.")] = 8192,
    epochs: Annotated[int, typer.Option(min=1, help="How many passes every arm makes over its rows.")] = 3,
    warmup_epochs: Annotated[int, typer.Option(min=1, help="How many passes the warm-up makes over the domain.")] = 1,
    lr: t.LearningRate = 2e-4,
    rank: t.Rank = None,
    batch_size: t.BatchSize = 16,
    schedule: t.ScheduleOption = Schedule.COSINE,
    warmup: t.Warmup = 0.03,
    alpha: t.Alpha = None,
    target_modules: t.TargetModules = None,
    loss_per: Annotated[LossPer | None, typer.Option(help=t.LOSS_PER, show_default="the preset's, row")] = None,
    average_weights: Annotated[bool, typer.Option("--average-weights", help=t.AVERAGE_WEIGHTS)] = False,
    hold_out: Annotated[
        float, typer.Option(help="Share of each arm's rows to judge by: its adapter of the lowest loss is kept.")
    ] = 0.0,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --hold-out: stop an arm after this many checkpoints without a lower loss.",
            show_default="never",
        ),
    ] = None,
    gradient_checkpointing: t.GradientCheckpointing = False,
    max_length: o.MaxLength = 1024,
    dtype: o.DtypeOption = Dtype.AUTO,
    device: o.Device = "auto",
    domain_split: Annotated[
        str | None, typer.Option(help="Split to read the domain from.", show_default="the only one")
    ] = None,
    pool_split: Annotated[
        str | None, typer.Option(help="Split to read the pool from.", show_default="the only one")
    ] = None,
    retain: Annotated[
        list[str] | None,
        typer.Option(
            help="A task that measures general ability, shown next to the others; repeatable.", show_default="none"
        ),
    ] = None,
    on_error: o.OnErrorOption = OnError.FAIL,
    thinking: o.ThinkingOption = None,
    text_as: o.TextAsOption = TextAs.CHAT,
    trust_remote_code: o.TrustRemoteCode = False,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Continue although items of a task are rows of the domain.")
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the evaluation and the report.")] = "arms",
    prefix: Annotated[
        str,
        typer.Option(help="Prefix of every name in the store, to keep several comparisons apart.", show_default="none"),
    ] = "",
    export: Annotated[
        Path | None,
        typer.Option(
            help="Also write the table to this file: .csv or .json.", show_default="only the store's reports/"
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Only write the steps to this file, as a recipe for `ntksel run`.", show_default="no file"),
    ] = None,
    force: o.Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the commands that would run.")] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Compare selected rows with everything a reviewer asks for, under one budget, in one resumable command."""
    from ntkcli.steps.pipelines import arms_report as step
    from ntkcli.steps.pipelines.arms_plan import Budget, Plan
    from ntkcli.steps.pipelines.arms_steps import steps_of
    from ntkcli.steps.pipelines.recipe import as_shell, write_recipe

    o.refuse_ranks("arms")
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    kernel = PRESETS[preset]
    chosen = tuple(arm.strip() for arm in arms.split(",")) if arms is not None else ()
    if chosen and oracle is not None and "oracle" not in chosen:
        chosen = (*chosen, "oracle")
    losses = loss_per if loss_per is not None else kernel.loss_per
    alike = equalise if equalise is not None else kernel.equalise if token_budget is None else None
    plan = Plan(
        store=str(store),
        model=model,
        domain=domain,
        pool=pool or "",
        tasks=tuple(task),
        name=name,
        budget=Budget(n, token_budget, coarse),
        arms=chosen,
        seeds=tuple(o.parse_seeds(seeds)),
        domain_repeat=kernel.domain_repeat if domain_repeat is None else domain_repeat,
        draws=kernel.draws if draws is None else draws,
        equalise=alike,
        oracle=oracle,
        sizes=() if sizes is None else tuple(o.parse_whole_numbers(sizes, "--sizes", "100,300,1000")),
        probes=tuple(probe) if probe else (kernel.probe,),
        method=kernel.method if method is None else method,
        centre=(method is None and kernel.centre) if centre is None else centre,
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        prefix=prefix,
        against=step.test_files(task),
        common=_given(max_length=(max_length, 1024), dtype=(dtype, "auto"), device=(device, "auto"))
        | _given(thinking=(thinking, None), trust_remote_code=(trust_remote_code, False)),
        rows_as=_given(text_as=(text_as, "chat")),
        training=_given(lr=(lr, 2e-4), rank=(rank, None), batch_size=(batch_size, 16), alpha=(alpha, None))
        | _given(schedule=(schedule, "cosine"), warmup=(warmup, 0.03), target_modules=(target_modules, None))
        | _given(gradient_checkpointing=(gradient_checkpointing, False)),
        arm_training=_given(loss_per=(losses, "token"), average_weights=(average_weights, False))
        | _given(hold_out=(hold_out, 0.0), patience=(patience, None)),
        features=_given(dim=(dim, 8192), probes=(probes, 1)),
        domain_data=_given(split=(domain_split, None), on_error=(on_error, "fail")),
        pool_data=_given(split=(pool_split, None), on_error=(on_error, "fail")),
        evaluation=_given(retain=(list(retain or ()), []), on_error=(on_error, "fail"))
        | _given(text_as=(step.text_as_of([*task, *(retain or ())], text_as), "chat")),
    )
    step.check_training(plan)
    step.check_outputs(plan, export=export, recipe=recipe, force=force)
    reference = plan.reference(baseline)
    plan = dataclasses.replace(plan, evaluation={**plan.evaluation, "baseline": reference})
    plan = step.check_data(plan, domain_split=domain_split, pool_split=pool_split)
    shared = step.check_overlap(plan, domain_split=domain_split, allow=allow_overlap, progress=output.progress)
    words = chain.vocabulary()
    steps = steps_of(plan)
    commands = [each.arguments(words) for each in steps]
    shown = tuple(as_shell(command) for command in commands)
    if recipe is not None:
        write_recipe(recipe, steps, comment=f"The arms {', '.join(plan.names())} under one budget.")
    if recipe is not None or dry_run:
        told = f"wrote {recipe}: `ntksel run {recipe}`, then the same `ntksel arms` for the table"
        output.result(
            ArmsPlan(plan.described(), shown, shared), line=told if recipe and not dry_run else "\n".join(shown)
        )
        return ExitCode.OK
    done = chain.run_commands(commands, output, results_to_stderr=True, hidden=("eval",))
    result = step.arms_result(store, plan, baseline=baseline, commands=shown, export=export)
    if json:
        output.result(result, line="")
    else:
        _show(result, output)
    return chain.exit_code(done)


def _given(**values: tuple[Any, Any]) -> dict[str, Any]:
    """The options that differ from their defaults, by their keys: what is printed stays short."""
    return {key.replace("_", "-"): value for key, (value, default) in values.items() if value != default}


def _show(result: ArmsResult, output: Output) -> None:
    tables = [(f"{each.n} rows, ", each.baseline, each.scores) for each in result.by_size]
    for size, baseline, scores in tables or [("", result.baseline, result.scores)]:
        title = f"{result.artefact}: {size}{result.items} items; p corrected for the arms compared (Holm)"
        _table(output, title, baseline, scores, result)
    if result.curve:
        _curve(output, result)
    output.say("")
    for sentence in result.sentences:
        output.say(sentence)
    output.say(f"Written: {', '.join(result.files)}")


def _table(output: Output, title: str, baseline: str, scores: Sequence[ArmScore], result: ArmsResult) -> None:
    several = len({score.task for score in scores}) > 1
    columns = ["arm", "rows", "tokens", "seeds", "spread", "value", "95% interval", "log loss", f"minus {baseline}"]
    rows = []
    for score in scores:
        spent, d = result.spent[score.arm], score.difference
        scale, form = (100, ".1f") if score.percent else (1, ".3f")
        task = f"{score.task} (retained)" if score.task in result.retained else score.task
        label = f"{task} · {score.arm}" if several else score.arm
        row = [label, f"{spent.rows:,}", f"{spent.tokens:,}", str(len(score.seeds))]
        row.append("" if score.spread is None else f"{scale * score.spread:{form}}")
        row.append(f"{scale * score.value:{form}}")
        row.append(f"{scale * score.low:{form}} to {scale * score.high:{form}}")
        nats = result.log_loss.get(score.task, {}).get(score.arm)
        row.append("" if nats is None else f"{nats:.3f}")
        if d is None:
            row += ["", "", ""]
        else:
            ends = f"{scale * d.low:+{form}} to {scale * d.high:+{form}}"
            row += [f"{scale * d.value:+{form}}", ends, f"{d.p_holm:.3f}"]
        rows.append(row)
    output.table(title, [*columns, "95% interval", "p"], rows)


def _curve(output: Output, result: ArmsResult) -> None:
    """The gain over the baseline of the same size: a line per task and arm, a column per size."""
    sizes = [each.n for each in result.by_size]
    percent = {(score.task): score.percent for each in result.by_size for score in each.scores}
    gains = {(point.task, point.arm, point.n): point for point in result.curve}
    several = len({task for task, _, _ in gains}) > 1
    rows = []
    for task, arm in dict.fromkeys((task, arm) for task, arm, _ in gains):
        scale, form = (100, "+.1f") if percent[task] else (1, "+.3f")
        cells = [gains[task, arm, n].gain for n in sizes]
        if any(cell is not None for cell in cells):
            shown = ["" if cell is None else f"{scale * cell:{form}}" for cell in cells]
            rows.append([f"{task} · {arm}" if several else arm, *shown])
    output.table("gain over the baseline with as many rows", ["arm", *(f"{n:,} rows" for n in sizes)], rows)
