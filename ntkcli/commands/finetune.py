"""`ntksel finetune`: parse, call the step, show."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ntkcli import options as o
from ntkcli import training_options as t
from ntkcli.choices import Dtype, LossPer, OnError, Schedule, TextAs
from ntkcli.console import Output
from ntkcli.errors import ExitCode, UsageError
from ntkcli.formatting import finetune_estimate_line, finetune_line, lr_table
from ntkcli.help_panels import Command, examples

EXAMPLE = "ntksel finetune med --model ./Llama-3-8B --train domain.jsonl --train picked=0.5 --name mixed"
SWEEP = "ntksel finetune med --model ./Llama-3-8B --train domain.jsonl --train random --name mixed --lr-find"
SECOND = "ntksel finetune med --model ./Llama-3-8B --train domain.jsonl --name warmup --epochs 1 --seeds 0,1,2"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(EXAMPLE, SECOND, SWEEP))(finetune)


def finetune(
    store: o.Store,
    model: o.Model,
    train: Annotated[
        list[str],
        typer.Option(
            help="Rows to train on: a selection, a data set of the store, or a data file (- is standard input); "
            "repeatable. REF=N uses each row N times per epoch; a fraction draws that share once, by the seed (0.5: "
            "half of them).",
            show_default=False,
            metavar="REF[=N]",
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the run in the store.", show_default=False)],
    then: Annotated[
        list[str] | None,
        typer.Option(
            help="Rows of a second stage, as in --train; repeatable. The first stage trains on --train alone, for "
            "--epochs passes, then the second on these for as many, under one learning rate schedule.",
            show_default="one stage",
            metavar="REF[=N]",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How many passes over the rows.", show_default="3")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Instead of --epochs: train on this many tokens.", show_default="none"),
    ] = None,
    match_tokens: Annotated[
        str | None,
        typer.Option(
            help="Instead of --epochs: train on as many tokens as this run of the store.", show_default="none"
        ),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many steps, instead of --epochs.", show_default="none")
    ] = None,
    match_steps: Annotated[
        str | None,
        typer.Option(help="Stop after as many steps as this run of the store took.", show_default="none"),
    ] = None,
    lr: t.LearningRate = None,
    lr_find: Annotated[
        bool,
        typer.Option(
            "--lr-find",
            help="Train nothing; try several rates in short trials, judge them on rows of the first --train (the "
            "domain) that are held out, and recommend one.",
        ),
    ] = False,
    lr_rates: Annotated[
        str | None,
        typer.Option(
            help="With --lr-find: the rates to try.", metavar="LR,LR,...", show_default="7 rates from 0.0001 to 0.003"
        ),
    ] = None,
    lr_steps: Annotated[
        int | None, typer.Option(min=1, help="With --lr-find: the most steps that a trial takes.", show_default="100")
    ] = None,
    schedule: t.ScheduleOption = Schedule.COSINE,
    warmup: t.Warmup = 0.03,
    rank: t.Rank = None,
    alpha: t.Alpha = None,
    target_modules: t.TargetModules = None,
    init_adapter: Annotated[
        str | None,
        typer.Option(
            help="Continue from the adapter of a run or a folder, which is not changed.", show_default="a new one"
        ),
    ] = None,
    batch_size: t.BatchSize = 16,
    batch_tokens: t.BatchTokens = None,
    gradient_checkpointing: t.GradientCheckpointing = False,
    max_length: o.MaxLength = 1024,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the adapter, the rows drawn and their order.", show_default="0"),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Train one run per seed: NAME.s0, NAME.s1, ...", metavar="S,...", show_default="one"),
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(
            help="Share of the rows held out; the adapter with the lowest loss on them is kept. With --lr-find: share "
            "of the first --train to judge by (0: a fifth, at most 200 rows)."
        ),
    ] = 0.0,
    hold_out_of: Annotated[
        str | None,
        typer.Option(
            help="With --hold-out: hold out rows of this --train only; they are the same for every seed and any other "
            "--train.",
            metavar="REF",
            show_default="of all, by the seed",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --hold-out: stop after this many checkpoints without a lower loss.", show_default="never"
        ),
    ] = None,
    loss_per: t.LossPerOption = LossPer.TOKEN,
    average_weights: Annotated[bool, typer.Option("--average-weights", help=t.AVERAGE_WEIGHTS)] = False,
    pack: Annotated[
        bool,
        typer.Option(
            "--pack",
            help="Pack rows into sequences of up to --max-length tokens, in which no row sees another; --batch-size "
            "then counts sequences.",
        ),
    ] = False,
    dtype: o.DtypeOption = Dtype.AUTO,
    device: o.Device = "auto",
    checkpoint_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps between two checkpoints.", show_default="a tenth of the run")
    ] = None,
    keep_optimizer: Annotated[
        bool,
        typer.Option("--keep-optimizer", help="Keep Adam's moments next to the adapter, for `score --method less`."),
    ] = False,
    keep_checkpoints: Annotated[
        bool,
        typer.Option(
            "--keep-checkpoints",
            help="Keep the adapter before the first step and at each checkpoint, for `diagnose stability`.",
        ),
    ] = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option(
            help="Report each step to this service, as transformers does: tensorboard (files in the folder reports/ of "
            "the store), wandb, mlflow, ...; repeatable.",
            metavar="SERVICE",
            show_default="none",
        ),
    ] = None,
    push_to_hub: o.PushToHub = None,
    public: o.Public = False,
    on_error: o.OnErrorOption = OnError.FAIL,
    columns: o.Columns = None,
    split: o.Split = None,
    data: o.Moved = None,
    thinking: o.ThinkingOption = None,
    text_as: o.TextAsOption = TextAs.CHAT,
    trust_remote_code: o.TrustRemoteCode = False,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Fine-tune a LoRA adapter; resumes from its last checkpoint."""
    from ntkcli.steps.shared.together import together
    from ntkcli.steps.training import finetune as step

    process = o.own_shard_of("finetune")
    if lr_find or dry_run:
        o.refuse_ranks("finetune --lr-find" if lr_find else "finetune --dry-run")
    output = Output(as_json=json, quiet=quiet or process[0] > 0, verbose=verbose)  # the first process shows everything
    given: dict[str, Any] = {
        "model": model,
        "train": train,
        "name": name,
        "epochs": epochs,
        "max_tokens": max_tokens,
        "match_tokens": match_tokens,
        "max_steps": max_steps,
        "match_steps": match_steps,
        "schedule": schedule,
        "warmup": warmup,
        "rank": rank,
        "alpha": alpha,
        "target_modules": target_modules,
        "init_adapter": init_adapter,
        "batch_size": batch_size,
        "batch_tokens": batch_tokens,
        "gradient_checkpointing": gradient_checkpointing,
        "max_length": max_length,
        "hold_out": hold_out,
        "loss_per": loss_per,
        "average_weights": average_weights,
        "pack": pack,
        "dtype": dtype,
        "device": o.own_device(device),
        "on_error": on_error,
        "columns": o.parse_columns(columns),
        "split": split,
        "data": data or [],
        "thinking": o.is_on(thinking),
        "text_as": text_as,
        "trust_remote_code": trust_remote_code,
    }
    if seed is not None and seeds is not None:
        raise UsageError("--seed and --seeds are both given.", "Give one of them.")
    parsed = None if seeds is None else o.parse_seeds(seeds)
    training: dict[str, Any] = {"lr": lr, "then": then, "patience": patience, "checkpoint_steps": checkpoint_steps}
    training |= {"keep_optimizer": keep_optimizer or None, "report_to": report_to or None}
    training |= {"keep_checkpoints": keep_checkpoints or None, "hold_out_of": hold_out_of}
    training |= {"push_to_hub": push_to_hub, "public": public or None}
    sweep: dict[str, Any] = {"lr_rates": o.parse_rates(lr_rates), "lr_steps": lr_steps}
    if lr_find:
        _refuse(training, "has no meaning with --lr-find, which tries rates in short trials and keeps no adapter")
        sweep = {key: value for key, value in sweep.items() if value is not None}
        return _find_rate(store, output, given | sweep, parsed or [seed or 0], dry_run=dry_run)
    _refuse(sweep, "is for --lr-find", fix="Give --lr-find, or leave it out.")
    given |= {key: value for key, value in training.items() if value is not None}
    if dry_run:
        from ntkcli.steps.training.dry_run import estimate_finetune
        from ntkcli.steps.training.request import TrainingRequest

        found = estimate_finetune(store, TrainingRequest.of(**given, seed=seed or 0))
        output.result(found, line=finetune_estimate_line(found) + (", for each seed" if seeds else ""))
        return ExitCode.OK
    with together(process, given["device"]) as processes:
        given |= {"processes": processes, "progress": output.progress}
        if parsed is not None:
            result: Any = step.finetune_seeds(store, seeds=parsed, **given)
            runs = result.runs
        else:
            result = step.finetune(store, seed=seed or 0, **given)
            runs = (result,)
    if process[0] == 0:
        output.result(result, line="\n".join(map(finetune_line, runs)))
    named = " ".join(f"--run {run.artefact.partition('/')[2]}" for run in runs)
    command = f"ntksel eval {{store}} --model {{model}} --run base {named} --task TEST.jsonl --name EVAL"
    output.next_step(command, store=store, model=model)
    return ExitCode.ROWS_SKIPPED if any(run.skipped for run in runs) else ExitCode.OK


def _refuse(given: dict[str, Any], why: str, *, fix: str = "Leave it out.") -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"--{name.replace('_', '-')} {why}.", fix)


def _find_rate(store: Any, output: Output, given: dict[str, Any], seeds: list[int], *, dry_run: bool) -> int:
    """`--lr-find`: the sweep, its table and what it recommends."""
    if dry_run:
        from ntkcli.steps.training.dry_run import estimate_sweep
        from ntkcli.steps.training.request import TrainingRequest

        tried = {key: given.pop(key) for key in ("lr_rates", "lr_steps") if key in given}
        estimate = estimate_sweep(store, TrainingRequest.of(**given), seeds=seeds, **tried)
        output.result(estimate, line=f"--lr-find, all trials together: {finetune_estimate_line(estimate)}")
        return ExitCode.OK
    from ntkcli.steps.training.lr_find import find_rate

    found = find_rate(store, seeds=seeds, **given)
    if output.as_json:
        output.result(found, line="")
    else:
        output.table(*lr_table(found))
        output.say("")
        for sentence in found.sentences:
            output.say(sentence)
    if found.command:
        output.next_step(found.command)
    return ExitCode.ROWS_SKIPPED if found.skipped else ExitCode.OK
