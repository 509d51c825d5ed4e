"""`ntksel info`: parse, call the step, show."""

from __future__ import annotations

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.report import human_bytes


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: ntksel info med")(info)


def info(store: o.Store, json: o.Json = False, quiet: o.Quiet = False, verbose: o.Verbose = False) -> int:
    """Show what is in a store: what is finished, what is missing, what it costs on disk."""
    from ntkcli.steps import info as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    found = step.info(store)
    if json:
        output.result(found, line="")
        return ExitCode.FAILURE if found.damaged else ExitCode.OK
    rows = []
    for artefact in found.artefacts:
        state = "stale" if artefact.stale else "complete" if artefact.complete else "unfinished"
        made_of = ", ".join(artefact.parents)
        rows.append(
            [
                artefact.name,
                f"{artefact.rows_done}/{artefact.rows}",
                state,
                human_bytes(artefact.size_bytes),
                made_of,
            ]
        )
    output.table(
        f"{found.path}: {human_bytes(found.size_bytes)}, format {found.version}, {found.made_by}",
        ["artefact", "rows", "state", "disk", "made from"],
        rows,
    )
    for artefact in found.artefacts:
        if artefact.stale:
            output.say(f"stale: {artefact.stale}")
    for text in found.damaged:
        output.say(f"damaged: {text}")
    return ExitCode.FAILURE if found.damaged else ExitCode.OK
