"""`ntksel info`: parse, call the step, show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.report import human_bytes

if TYPE_CHECKING:
    from ntkcli.steps.info import StoreInfo
    from ntkcli.steps.verify import VerifyResult


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: ntksel info med")(info)


def info(
    store: o.Store,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything and compare it with its digests; damage exits 1.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="As --verify, and forget damaged parts: the commands named redo just these."),
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Show what is in a store: what is finished, what is missing or damaged, what it costs on disk."""
    from ntkcli.steps import info as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    found = step.info(store, verify=verify, repair=repair, progress=output.progress)
    if json:
        output.result(found, line="")
    else:
        _show(found, output)
    return ExitCode.OK if found.sound else ExitCode.FAILURE


def _show(found: StoreInfo, output: Output) -> None:
    rows = []
    for artefact in found.artefacts:
        state = "stale" if artefact.stale else "complete" if artefact.complete else "unfinished"
        done = f"{artefact.rows_done}/{artefact.rows}"
        rows.append([artefact.name, done, state, human_bytes(artefact.size_bytes), ", ".join(artefact.parents)])
    output.table(
        f"{found.path}: {human_bytes(found.size_bytes)}, format {found.version}, {found.made_by}",
        ["artefact", "rows", "state", "disk", "made from"],
        rows,
    )
    for artefact in found.artefacts:
        if artefact.stale:
            output.say(f"stale: {artefact.stale}")
    if found.verified is not None:
        _show_verified(found.verified, output)
    else:
        for text in found.damaged:
            output.say(f"damaged: {text}")


def _show_verified(verified: VerifyResult, output: Output) -> None:
    for finding in verified.findings:
        output.say(f"{'repaired' if finding.repaired else 'damaged'}: {finding.what}; {finding.mend}")
    for text in verified.unfinished:
        output.say(f"unfinished: {text}")
    read = f"{verified.rows} rows in {verified.parts} parts, {verified.adapters} adapters"
    left = sum(not finding.repaired for finding in verified.findings)
    state = "no damage" if not verified.findings else f"{len(verified.findings)} damaged, {left} of them not repaired"
    output.say(f"verified: {read} are good; {state}")
