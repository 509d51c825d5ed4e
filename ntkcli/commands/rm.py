"""`ntksel rm`: parse, call the step, show."""

from __future__ import annotations

from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.help_panels import Command, examples
from ntkcli.units import human_bytes

EXAMPLES = ("ntksel rm med features/pool/embed", "ntksel rm med runs/warmup --force")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(*EXAMPLES))(rm)


def rm(
    store: o.Store,
    artefact: Annotated[
        list[str], typer.Argument(help="What to remove, as `ntksel info` lists it: features/DATA/NAME, runs/NAME, ...")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Remove it even if other artefacts were made from it; these are kept.")
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Remove artefacts from a store; the adapter and checkpoints of a run go with it."""
    from ntkcli.steps.upkeep import remove as step

    o.refuse_ranks("rm")
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    found = step.remove(store, artefact, force=force)
    line = f"removed {', '.join(found.removed)}: {human_bytes(found.freed_bytes)}"
    output.result(found, line=f"{line}; made from it: {', '.join(found.dependents)}" if found.dependents else line)
    return ExitCode.OK
