"""`ntksel pull`: parse, call the step, show."""

from __future__ import annotations

from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.help_panels import Command, examples
from ntkcli.units import human_bytes

EXAMPLES = ("ntksel pull s3://bucket/med med", "ntksel pull s3://bucket/med med --dry-run")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(*EXAMPLES))(pull)


def pull(
    url: Annotated[str, typer.Argument(help="Where `ntksel push` put the store: s3://BUCKET/NAME, file://, ...")],
    store: o.Store,
    force: Annotated[
        bool, typer.Option("--force", help="Replace artefacts of the folder that were made with other settings.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only compare, and show what would be received.")] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Copy a pushed store from a URL into a folder: only what is missing or differs."""
    from ntkcli.steps.remote import pull as step

    o.refuse_ranks("pull")
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    found = step.pull(url, store, force=force, dry_run=dry_run, progress=output.progress)
    for name, why in found.unfinished.items():
        output.progress.note(f"{name}: {why}")
    for name in found.longer:
        output.progress.note(f"{name}: {found.store} has more rows, which stay; push them with `ntksel push`")
    done = "to receive" if dry_run else "received"
    received = f"{found.received} of {found.files} files {done}, {human_bytes(found.received_bytes)}"
    output.result(found, line=f"{found.store}: {received} of {human_bytes(found.size_bytes)}")
    if not dry_run:
        output.next_step("ntksel info {store}", store=found.store)
    return ExitCode.OK
