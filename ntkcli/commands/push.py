"""`ntksel push`: parse, call the step, show."""

from __future__ import annotations

from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.help_panels import Command, examples
from ntkcli.units import human_bytes

EXAMPLES = ("ntksel push med s3://bucket/med", "ntksel push med file:///mnt/backup/med --dry-run")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(*EXAMPLES))(push)


def push(
    store: o.Store,
    url: Annotated[
        str, typer.Argument(help="Where to: s3://BUCKET/NAME, gs://, abfs://, file:// or another that fsspec knows.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace artefacts at the URL that were made with other settings.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only compare, and show what would be sent.")] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Copy what is finished in a store to a URL: only what is missing there or differs."""
    from ntkcli.steps.remote import push as step

    o.refuse_ranks("push")
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    found = step.push(store, url, force=force, dry_run=dry_run, progress=output.progress)
    for name, why in found.unfinished.items():
        output.progress.note(f"{name}: {why}")
    sent = f"{found.sent} of {found.files} files {'to send' if dry_run else 'sent'}, {human_bytes(found.sent_bytes)}"
    kept = f"; kept there: {', '.join(found.kept)}" if found.kept else ""
    output.result(found, line=f"{found.url}: {sent} of {human_bytes(found.size_bytes)}{kept}")
    if not dry_run:
        output.next_step("ntksel pull {url} STORE", url=found.url)
    return ExitCode.OK
