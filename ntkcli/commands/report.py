"""`ntksel report`: parse, call the step, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.help_panels import Command, examples
from ntkcli.units import human_bytes

EXAMPLES = ("ntksel report med", "ntksel report med --html med.html --md med.md --selection picked")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(*EXAMPLES))(report)


def report(
    store: o.Store,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write one HTML file that needs no network; default: reports/report.html in the store, unless --md is "
            "given.",
            show_default=False,
        ),
    ] = None,
    md: Annotated[
        Path | None, typer.Option(help="Write the same facts as Markdown, without plots.", show_default=False)
    ] = None,
    selection: Annotated[
        str | None,
        typer.Option(help="The selection to show in detail.", show_default="the newest one that is not random"),
    ] = None,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Write a page about the store: data, scores, selection, rows, training, results, cost and commands."""
    from ntkcli.steps.reports import report as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    found = step.report(store, html=html, md=md, selection=selection, force=force, progress=output.progress)
    files = " and ".join(path for path in (found.html, found.md) if path is not None)
    line = f"wrote {files}: {len(found.sections)} sections, {human_bytes(found.bytes)}"
    if found.missing:
        line += f"; nothing yet for {', '.join(found.missing)}"
    if found.damaged:
        line += f"; damaged and left out: {', '.join(found.damaged)}"
    output.result(found, line=line)
    return ExitCode.OK
