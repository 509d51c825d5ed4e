"""`ntksel validate`: parse, call the step, show."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntkcli import options as o
from ntkcli import training_options as t
from ntkcli.choices import Design, Dtype, LossPer, Schedule, TextAs
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.help_panels import Command, examples

if TYPE_CHECKING:
    from ntkcli.steps.validation.dry_run import ValidateEstimate
    from ntkcli.steps.validation.result import Validation

EXAMPLES = (
    "ntksel validate med --score stage2 --score random --model M --domain domain.jsonl --task test.jsonl --name v1",
    "ntksel validate med --score stage2 --model M --domain domain.jsonl --folds 5 --name v2 --subsets 60",
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(*EXAMPLES))(validate)


def validate(
    context: typer.Context,
    store: o.Store,
    score: Annotated[
        list[str], typer.Option(help="A score of the store; repeatable, all of one pool.", show_default=False)
    ],
    model: o.Model,
    domain: Annotated[
        str, typer.Option(help="The domain's rows: a data file, or a data set of the store.", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="Name of the validation in the store.", show_default=False)],
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Test items, as in `ntksel eval`: [NAME=]FILE or a task; repeatable.", show_default="--folds"
        ),
    ] = None,
    folds: o.Folds = None,
    by: o.FoldsBy = None,
    design: Annotated[
        Design,
        typer.Option(
            help="bins: train on rows from bins of each score's ranks; subsets: on random subsets shared by all scores."
        ),
    ] = Design.BOTH,
    bins: Annotated[
        str,
        typer.Option(
            help="How many equal bins, or their edges in percent of the ranks: 1,5,20,50,100.", metavar="K|EDGE,..."
        ),
    ] = "5",
    subsets: Annotated[int, typer.Option(min=1, help="How many random subsets; half are mixtures of sources.")] = 40,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Rows of the pool in each run.", show_default="half of the smallest bin, at most 256"),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds; each bin is trained once per seed.", metavar="S,...")] = "0,1,2",
    domain_repeat: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many times each run uses each domain row per epoch.",
            show_default="until domain and pool rows are about equally many",
        ),
    ] = None,
    oracle: Annotated[
        str | None,
        typer.Option(
            help="Rows of the pool known to be right: a file of them, or source=LABEL,... for the pool's labels.",
            metavar="FILE|source=A,...",
            show_default="none",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the rows.", show_default="3")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Instead of --epochs: as many passes as hold this many tokens.", show_default="none"),
    ] = None,
    lr: t.LearningRate = None,
    schedule: t.ScheduleOption = Schedule.COSINE,
    warmup: t.Warmup = 0.03,
    rank: t.Rank = None,
    alpha: t.Alpha = None,
    target_modules: t.TargetModules = None,
    init_adapter: Annotated[
        str | None,
        typer.Option(help="Start each run from the adapter of a run or in a folder.", show_default="a new one"),
    ] = None,
    batch_size: t.BatchSize = 16,
    batch_tokens: t.BatchTokens = None,
    ray: o.Ray = None,
    gradient_checkpointing: t.GradientCheckpointing = False,
    max_length: o.MaxLength = 1024,
    loss_per: t.LossPerOption = LossPer.ROW,
    average_weights: Annotated[
        bool | None,
        typer.Option(
            "--average-weights/--no-average-weights",
            help=f"{t.AVERAGE_WEIGHTS} Seeds then differ less.",
            show_default="on, off with --hold-out",
        ),
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(
            help="Share of the domain's rows to hold out, the same rows for all runs; the adapter with the lowest loss "
            "on them is measured."
        ),
    ] = 0.0,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --hold-out: stop a run after this many checkpoints without a lower loss.",
            show_default="never",
        ),
    ] = None,
    dtype: o.DtypeOption = Dtype.AUTO,
    device: o.Device = "auto",
    columns: o.Columns = None,
    split: o.Split = None,
    thinking: o.ThinkingOption = None,
    text_as: o.TextAsOption = TextAs.CHAT,
    trust_remote_code: o.TrustRemoteCode = False,
    keep_runs: Annotated[
        bool, typer.Option("--keep-runs", help="Keep each run's adapter, as runs/NAME.random.s0 and so on.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the curves and the LDS: .png or .svg.", show_default="no picture")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the table (.csv), or everything (.json).", show_default="no file")
    ] = None,
    force: o.Force = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only report what it would take and show: runs, tokens, time, power."),
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Train on the rows that scores like best and least, and report whether the best help more; resumes run by run."""
    from ntkcli.commands.on_ray import share_own
    from ntkcli.data.references import split_name
    from ntkcli.steps.shared.outputs import Inputs
    from ntkcli.steps.validation.export import check_files, write_export, write_plot
    from ntkcli.steps.validation.request import ValidationSettings, prepare
    from ntkcli.steps.validation.validate import validate as step

    o.check_folds(task or (), folds, by)
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    files = [split_name(each)[1] for each in (domain, *(task or ()))] + (
        [oracle] if oracle and "=" not in oracle else []
    )
    check_files(store, export, plot, inputs=Inputs(files, (model,)), force=force)
    given: dict[str, Any] = {
        "score": score,
        "model": model,
        "domain": domain,
        "task": task or [],
        "folds": folds,
        "by": by,
        "name": name,
        "design": design,
        "bins": bins,
        "subsets": subsets,
        "rows": rows,
        "seeds": o.parse_seeds(seeds),
        "domain_repeat": domain_repeat,
        "oracle": oracle,
        "epochs": epochs,
        "max_tokens": max_tokens,
        "lr": lr,
        "schedule": schedule,
        "warmup": warmup,
        "rank": rank,
        "alpha": alpha,
        "target_modules": target_modules,
        "init_adapter": init_adapter,
        "batch_size": batch_size,
        "batch_tokens": batch_tokens,
        "max_length": max_length,
        "loss_per": loss_per,
        "average_weights": average_weights,
        "hold_out": hold_out,
        "patience": patience,
        "dtype": dtype,
        "device": device,
        "columns": o.parse_columns(columns),
        "split": split,
        "thinking": o.is_on(thinking),
        "text_as": text_as,
        "trust_remote_code": trust_remote_code,
    }
    if dry_run:
        from ntkcli.steps.validation.dry_run import estimate_validation

        estimate = estimate_validation(prepare(store, ValidationSettings.of(**given)))
        output.result(estimate, line=_estimate_line(estimate))
        return ExitCode.OK
    share_own(context, ray, store, output)
    found = step(
        store,
        **given,
        gradient_checkpointing=gradient_checkpointing,
        keep_runs=keep_runs,
        progress=output.progress,
    )
    if export is not None:
        write_export(export, found)
    if plot is not None:
        write_plot(plot, found)
    if json:
        output.result(found.result, line="")
    else:
        _show(output, found, name)
    return ExitCode.OK


def _estimate_line(found: ValidateEstimate) -> str:
    hours = f"{found.seconds / 3600:.1f} hours" if found.seconds >= 3600 else f"{found.seconds / 60:.1f} minutes"
    left = f"{found.runs} runs" + (f", {found.runs_done} of them done" if found.runs_done else "")
    often = "once" if found.domain_repeat == 1 else f"{found.domain_repeat} times"
    folds = f", one for each of {found.folds} folds" if found.folds else ""
    line = (
        f"validate: {left}{folds}; each takes {found.rows} rows of the pool and the domain's rows {often}; "
        f"{found.train_tokens:,} tokens to train on and {found.test_tokens:,} to measure, about {hours}"
    )
    return "\n".join([line, *found.sentences])


def _show(output: Output, found: Validation, name: str) -> None:
    several = len({one.task for one in found.result.scores}) > 1
    columns = ["score", "LDS", "95% interval", "slope (nats)", "95% interval", "rank correlation", "p"]
    rows = []
    for one in found.result.scores:
        rows.append(
            [
                f"{one.task} · {one.score}" if several else one.score,
                _number(one.lds, "+.2f"),
                _interval(one.lds_low, one.lds_high, "+.2f"),
                _number(one.slope, "+.3f"),
                _interval(one.slope_low, one.slope_high, "+.3f"),
                _number(one.rank_correlation, "+.2f"),
                _number(one.p, ".3f"),
            ]
        )
    title = f"validations/{name}: {found.result.runs} runs, {found.result.diverged} diverged; a slope above 0 is right"
    output.table(title, columns, rows)
    for task, levels in found.levels.items():
        output.say(f"loss on {task}: " + ", ".join(f"{kind} {value:.3f}" for kind, value in levels.items()))
    output.say("")
    for sentence in found.result.sentences:
        output.say(sentence)


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


def _interval(low: float, high: float, form: str) -> str:
    return "" if math.isnan(low) else f"{low:{form}} to {high:{form}}"
