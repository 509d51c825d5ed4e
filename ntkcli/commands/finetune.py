"""`ntksel finetune`: parse, call the step, show."""

from __future__ import annotations

from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode

EXAMPLE = "ntksel finetune med --model ./Llama-3-8B --train domain.jsonl --train picked --name mixed"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog=f"Example: {EXAMPLE}")(finetune)


def finetune(
    store: o.Store,
    model: o.Model,
    train: Annotated[
        list[str],
        typer.Option(
            help="A selection, a data set of the store, or a data file (- is standard input); repeatable.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="The run's name.", show_default=False)],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the rows.")] = 3,
    lr: Annotated[float, typer.Option(help="Peak learning rate (cosine, 3% warm-up).")] = 2e-4,
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank.")] = 16,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha.", show_default="2 x rank")] = None,
    target_modules: Annotated[str, typer.Option(help="Layers to adapt: all-linear, or names.")] = "all-linear",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a step.")] = 16,
    max_length: o.MaxLength = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Of the adapter's start and the order of rows.")] = 0,
    dtype: o.DtypeOption = o.Dtype.AUTO,
    device: o.Device = "auto",
    checkpoint_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps between checkpoints.", show_default="a tenth of the run")
    ] = None,
    on_error: o.OnErrorOption = o.OnError.FAIL,
    columns: o.Columns = None,
    split: o.Split = None,
    thinking: o.ThinkingOption = None,
    trust_remote_code: o.TrustRemoteCode = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Fine-tune a LoRA adapter; resumes from its last checkpoint."""
    from ntkcli.steps import finetune as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    result = step.finetune(
        store,
        model=model,
        train=train,
        name=name,
        epochs=epochs,
        lr=lr,
        rank=rank,
        alpha=alpha,
        target_modules=target_modules,
        batch_size=batch_size,
        max_length=max_length,
        seed=seed,
        dtype=dtype.value,
        device=device,
        checkpoint_steps=checkpoint_steps,
        on_error=on_error.value,
        columns=o.parse_columns(columns),
        split=split,
        thinking=o.is_on(thinking),
        trust_remote_code=trust_remote_code,
        progress=output.progress,
    )
    output.result(
        result,
        line=f"{result.artefact}: {result.rows} rows, {result.steps} steps, loss {result.first_loss:.3f} to "
        f"{result.last_loss:.3f}, {result.truncated} truncated, {result.skipped} skipped; adapter {result.adapter}",
    )
    output.next_step(f"ntksel eval {store} --model {model} --run base --run {name} --task TEST.jsonl --name EVAL")
    return ExitCode.ROWS_SKIPPED if result.skipped else ExitCode.OK
