"""`ntksel select`: parse, call the step, show."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode

EXAMPLE = "ntksel select med --score stage2 -n 9000 --name picked --export picked.jsonl"
SOURCES_SHOWN = 5


class Method(StrEnum):
    """Ways to select."""

    TOP = "top"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog=f"Example: {EXAMPLE}")(select)


def select(
    store: o.Store,
    score: Annotated[str, typer.Option(help="The score to select by.", show_default=False)],
    n: Annotated[int, typer.Option("-n", min=1, help="How many rows.", show_default=False)],
    name: Annotated[str, typer.Option(help="The selection's name.", show_default=False)],
    method: Annotated[Method, typer.Option(help="top: the highest scores.")] = Method.TOP,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write the rows there as JSON Lines, with ntksel_score and ntksel_rank.",
            show_default="no file",
        ),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Select the rows that help most, and export them."""
    from ntkcli.steps import select as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    result = step.select(
        store, score=score, n=n, name=name, method=method.value, export=export, progress=output.progress
    )
    shown = ", ".join(f"{label or 'no label'} {count}" for label, count in list(result.sources.items())[:SOURCES_SHOWN])
    more = len(result.sources) - SOURCES_SHOWN
    output.result(
        result,
        line=f"{result.artefact}: {result.rows} of {result.scored} scored rows, lowest score {result.lowest:.6g}; "
        f"sources: {shown}" + (f" and {more} more" if more > 0 else "") + f"; digest {result.digest}",
    )
    output.next_step(f"ntksel finetune {store} --model M --train DOMAIN.jsonl --train {name} --name RUN")
    return ExitCode.OK
