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
from ntkcli.formatting import arms_estimate_lines, arms_table, curve_table, rounds_table
from ntkcli.help_panels import Command, examples
from ntkcli.kernel_presets import PRESETS
from ntkcli.steps.scores.registry import SCORES

if TYPE_CHECKING:
    from ntkcli.steps.pipelines.arms_cost import ArmsEstimate
    from ntkcli.steps.pipelines.arms_report import ArmsResult
    from ntkcli.steps.splits.overlap import Overlap

EXAMPLE = (
    "ntksel arms med --model ./Llama-3-8B --domain domain.jsonl --pool pool.jsonl --task test.jsonl -n 9000 "
    "--seeds 0,1,2"
)
SECOND = (
    "ntksel arms med --model ./Llama-3-8B --domain domain.jsonl --pool pool.jsonl --folds 5 --by author -n 900 "
    "--arms base,domain,random,selected --rounds 3 --dry-run"
)


@dataclass(frozen=True, slots=True)
class ArmsPlan:
    """What a dry run shows: the arms, the commands that make them, and each task's items that are domain rows."""

    arms: dict[str, str]
    commands: tuple[str, ...]
    overlap: dict[str, Overlap]
    folds: int | None = None
    estimate: ArmsEstimate | None = None


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(EXAMPLE, SECOND))(arms)


def arms(
    store: o.Store,
    model: o.Model,
    domain: Annotated[str, typer.Option(help="Rows of the domain: a data file, or TASK@SPLIT.", show_default=False)],
    task: Annotated[
        list[str] | None,
        typer.Option(help="Task to evaluate on, as in `ntksel eval`; repeatable.", show_default="--folds"),
    ] = None,
    folds: o.Folds = None,
    by: o.FoldsBy = None,
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
            help="Arms to compare, separated by commas (docs/arms.md); also dsir, rds, random-selected, rounds.",
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
            help="How many times each arm uses each domain row per epoch.",
            show_default="until domain and pool rows are about equally many",
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
    rounds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Add an arm that chooses its -n rows in this many rounds: after each one the model is trained on the "
            "new rows, and its new features choose among what is left of the pre-selection.",
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
            "How the kernel scores (with --centre, on centred features): mean, cosine, ...",
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
    lr: t.LearningRate = None,
    rank: t.Rank = None,
    batch_size: t.BatchSize = 16,
    schedule: t.ScheduleOption = Schedule.COSINE,
    warmup: t.Warmup = 0.03,
    alpha: t.Alpha = None,
    target_modules: t.TargetModules = None,
    loss_per: Annotated[LossPer | None, typer.Option(help=t.LOSS_PER, show_default="the preset's, row")] = None,
    average_weights: Annotated[bool, typer.Option("--average-weights", help=t.AVERAGE_WEIGHTS)] = False,
    hold_out: Annotated[
        float,
        typer.Option(
            help="Share of the domain's rows to hold out, the same rows for all arms; the adapter with the lowest loss "
            "on them is kept."
        ),
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
    ray: o.Ray = None,
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
        bool, typer.Option("--allow-overlap", help="Continue even if items of a task are rows of the domain.")
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
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw every arm as a point with its 95% interval: .png or .svg.", show_default="no picture"),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Only write the steps to this file, as a recipe for `ntksel run`.", show_default="no file"),
    ] = None,
    force: o.Force = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only print the commands that would run, what they cost, and how small a difference would show.",
        ),
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Compare selected rows with everything a reviewer asks for, under one budget, in one resumable command."""
    from ntkcli.steps.pipelines import arms_report as step
    from ntkcli.steps.pipelines.arms_folds import divide_domain
    from ntkcli.steps.pipelines.arms_plan import Budget, Plan
    from ntkcli.steps.pipelines.arms_steps import steps_of
    from ntkcli.steps.pipelines.merging import merge_scores
    from ntkcli.steps.pipelines.recipe import as_shell, write_recipe

    o.refuse_ranks("arms")
    o.check_folds(task or (), folds, by)
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    kernel = PRESETS[preset]
    chosen = tuple(arm.strip() for arm in arms.split(",")) if arms is not None else ()
    for arm, given in (("oracle", oracle), ("rounds", rounds)):
        chosen = (*chosen, arm) if chosen and given is not None and arm not in chosen else chosen
    losses = loss_per if loss_per is not None else kernel.loss_per
    alike = equalise if equalise is not None else kernel.equalise if token_budget is None else None
    plan = Plan(
        store=str(store),
        model=model,
        domain=domain,
        pool=pool or "",
        tasks=tuple(task or ()),
        name=name,
        budget=Budget(n, token_budget, coarse),
        arms=chosen,
        seeds=tuple(o.parse_seeds(seeds)),
        domain_repeat=kernel.domain_repeat if domain_repeat is None else domain_repeat,
        draws=kernel.draws if draws is None else draws,
        equalise=alike,
        oracle=oracle,
        rounds=rounds,
        sizes=() if sizes is None else tuple(o.parse_whole_numbers(sizes, "--sizes", "100,300,1000")),
        probes=tuple(probe) if probe else (kernel.probe,),
        method=kernel.method if method is None else method,
        centre=(method is None and kernel.centre) if centre is None else centre,
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        prefix=prefix,
        against=step.test_files(task or ()),
        common=_given(max_length=(max_length, 1024), dtype=(dtype, "auto"), device=(device, "auto"))
        | _given(thinking=(thinking, None), trust_remote_code=(trust_remote_code, False)),
        rows_as=_given(text_as=(text_as, "chat")),
        training=_given(lr=(lr, None), rank=(rank, None), batch_size=(batch_size, 16), alpha=(alpha, None))
        | _given(schedule=(schedule, "cosine"), warmup=(warmup, 0.03), target_modules=(target_modules, None))
        | _given(gradient_checkpointing=(gradient_checkpointing, False)),
        arm_training=_given(loss_per=(losses, "token"), average_weights=(average_weights, False))
        | _given(hold_out=(hold_out, 0.0), patience=(patience, None)),
        features=_given(dim=(dim, 8192), probes=(probes, 1)),
        domain_data=_given(split=(domain_split, None), on_error=(on_error, "fail")),
        pool_data=_given(split=(pool_split, None), on_error=(on_error, "fail")),
        evaluation=_given(retain=(list(retain or ()), []), on_error=(on_error, "fail"))
        | _given(text_as=(step.text_as_of([*(task or [domain]), *(retain or ())], text_as), "chat")),
    )
    step.check_training(plan)
    step.check_outputs(plan, export=export, recipe=recipe, plot=plot, force=force)
    reference = plan.reference(baseline)
    plan = dataclasses.replace(plan, evaluation={**plan.evaluation, "baseline": reference})
    share = 1.0 if folds is None else (folds - 1) / folds
    plan = step.check_data(plan, domain_split=domain_split, pool_split=pool_split, trained_share=share)
    shared = step.check_overlap(plan, domain_split=domain_split, allow=allow_overlap, progress=output.progress)
    divided = None
    if folds is not None:
        divided = divide_domain(
            plan, folds=folds, by=by, baseline=baseline, domain_split=domain_split, on_error=on_error,
            progress=output.progress,
        )  # fmt: skip
    plans = (plan,) if divided is None else divided.plans
    words = chain.vocabulary()
    steps = [each for own in plans for each in steps_of(own)]
    commands = [each.arguments(words) for each in merge_scores(steps)]
    shown = tuple(as_shell(command) for command in commands)
    if divided is not None and (recipe is not None or not dry_run):
        divided.write()
    if recipe is not None:
        write_recipe(recipe, steps, comment=f"The arms {', '.join(plan.names())} under one budget.")
    if recipe is not None and not dry_run:
        told = f"wrote {recipe}: `ntksel run {recipe}`, then the same `ntksel arms` for the table"
        output.result(ArmsPlan(plan.described(), shown, shared, folds), line=told)
        return ExitCode.OK
    if dry_run:
        from ntkcli.steps.pipelines.arms_cost import estimate_arms

        estimate = estimate_arms(
            plan, steps, baseline=reference, folds=plans if divided else (), domain_split=domain_split,
            pool_split=pool_split, device=device,
        )  # fmt: skip
        found = ArmsPlan(plan.described(), shown, shared, folds, estimate)
        output.result(found, line="\n".join([*shown, *(f"# {line}" for line in arms_estimate_lines(estimate))]))
        return ExitCode.OK
    done = chain.run_commands(commands, output, results_to_stderr=True, hidden=("eval",), ray=ray)
    result = step.arms_result(
        store, plan, baseline=baseline, commands=shown, export=export, plot=plot, folds=plans if divided else ()
    )
    if json:
        output.result(result, line="")
    else:
        _show(result, output)
    if divided is not None and divided.division.skipped:
        return ExitCode.ROWS_SKIPPED
    return chain.exit_code(done)


def _given(**values: tuple[Any, Any]) -> dict[str, Any]:
    """The options that differ from their defaults, by their keys: what is printed stays short."""
    return {key.replace("_", "-"): value for key, (value, default) in values.items() if value != default}


def _show(result: ArmsResult, output: Output) -> None:
    tables = [(f"{each.n} rows, ", each.baseline, each.scores) for each in result.by_size]
    for size, baseline, scores in tables or [("", result.baseline, result.scores)]:
        folds = f" in {result.folds} folds" if result.folds else ""
        title = f"{result.artefact}: {size}{result.items} items{folds}; p corrected for the arms compared (Holm)"
        output.table(*arms_table(title, baseline, scores, result))
    if result.curve:
        output.table(*curve_table(result))
    if result.rounds:
        output.table(*rounds_table(result))
    output.say("")
    for sentence in result.sentences:
        output.say(sentence)
    output.say(f"Written: {', '.join(result.files)}")
