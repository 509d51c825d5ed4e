"""`ntksel merge`: parse, call the step, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ntkcli import options as o
from ntkcli.choices import Dtype
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.help_panels import Command, examples
from ntkcli.units import human_bytes

EXAMPLES = (
    "ntksel merge med --run mixed --out ./llama-med",
    "ntksel merge med --run mixed --out ./llama-med --dtype bfloat16 --gguf llama-med.gguf",
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(*EXAMPLES))(merge)


def merge(
    store: o.Store,
    run: Annotated[str, typer.Option(help="Run of the store whose adapter is merged.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write the model to.", metavar="DIR", show_default=False)],
    dtype: Annotated[
        Dtype,
        typer.Option(help="Number format of the merged weights; auto: that of the base model's files."),
    ] = Dtype.AUTO,
    gguf: Annotated[
        Path | None,
        typer.Option(
            help="Also write the model as this GGUF file, for llama.cpp: Llama and Mistral architectures.",
            metavar="FILE",
            show_default="no file",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Where the base model is now, if it was moved.", show_default="where the run found it"),
    ] = None,
    trust_remote_code: o.TrustRemoteCode = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a model's folder or a file; an input is never replaced.")
    ] = False,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Merge a run's adapter into its base model, for transformers, vLLM and llama.cpp."""
    from ntkcli.steps.training import merge as step

    o.refuse_ranks("merge")
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    given: dict[str, Any] = {
        "run": run,
        "out": out,
        "dtype": dtype,
        "gguf": gguf,
        "model": model,
        "trust_remote_code": trust_remote_code,
        "force": force,
    }
    if dry_run:
        estimate = step.estimate_merge(store, **given)
        line = (
            f"merge: {estimate.run}, {estimate.parameters:,} weights in {estimate.dtype}; disk "
            f"{human_bytes(estimate.disk_bytes)}, memory {human_bytes(estimate.memory_bytes)}"
        )
        if gguf is not None and estimate.gguf_bytes is None:
            line += f"; the GGUF file about {human_bytes(estimate.disk_bytes)}"
        elif gguf is not None:
            line += f"; the GGUF file {human_bytes(estimate.gguf_bytes or 0)}"
        output.result(estimate, line=line)
        return ExitCode.OK
    found = step.merge(store, **given, progress=output.progress)
    line = f"{found.run} merged: {found.out}, {found.parameters:,} weights in {found.dtype}, {human_bytes(found.bytes)}"
    if found.gguf is not None:
        line += f"; {found.gguf}, {human_bytes(found.gguf_bytes)}"
    output.result(found, line=line)
    command = "ntksel eval {store} --model {out} --run base --task TEST.jsonl --name EVAL"
    output.next_step(command, store=store, out=out)
    return ExitCode.OK
