"""`ntksel explain`: parse, call the step, show."""

from __future__ import annotations

from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.commands.explain_tokens import show_tokens
from ntkcli.console import Output
from ntkcli.errors import ExitCode, UsageError
from ntkcli.help_panels import Command, examples

EXAMPLES = ("ntksel explain med picked boolq-17", "ntksel explain med picked 42 --bottom --json")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(*EXAMPLES))(explain)


def explain(
    store: o.AnyStore,
    selection: Annotated[str, typer.Argument(help="Name of the selection.", show_default=False)],
    row: Annotated[str, typer.Argument(help="A row of its pool: its id, or its number from 0.", show_default=False)],
    bottom: Annotated[
        bool,
        typer.Option(
            "--bottom",
            help="Also show the other end: the domain rows that it is least like, and the pool's lowest rows.",
        ),
    ] = False,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Show which of its tokens carry its score (mean, cosine); loads the model.")
    ] = False,
    device: Annotated[str, typer.Option(help="--tokens: device to compute on: auto, cpu, cuda or cuda:I.")] = "auto",
    data: o.Moved = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Show why a row was chosen, or why not: its nearest domain rows, its ranks, and what it added."""
    from ntkcli.steps.selections import explain as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    if tokens and bottom:
        raise UsageError("--tokens and --bottom show different things.", "Give one of them.")
    if tokens:
        show_tokens(store, selection, row, device=device, data=data or (), output=output)
        return ExitCode.OK
    if device != "auto":
        raise UsageError("--device is for --tokens; nothing else here computes.", "Leave it out, or give --tokens.")
    found = step.explain(store, selection=selection, row=row, bottom=bottom, data=data or ())
    if json:
        output.result(found, line="")
        return ExitCode.OK
    if found.rank is None:
        state = f"not chosen; {found.why_not}" + (f": {found.displaced_by}" if found.displaced_by else "")
    else:
        state = f"rank {found.rank}" + ("" if found.gain is None else f", gain {found.gain:.4g}")
    output.say(f"{found.row_id} (row {found.row}, {found.source or 'no source'}) in {found.selection}: {state}")
    for title, rows in (("nearest domain rows", found.nearest), ("farthest domain rows", found.farthest)):
        if rows is not None:
            output.table(
                title,
                ["row", "data set", "cosine"],
                [[near.row_id, near.domain, f"{near.similarity:.4f}"] for near in rows],
            )
    output.table(
        "in the scores",
        ["score", "method", "value", "rank"],
        [
            [each.score, each.method, "" if each.value is None else f"{each.value:.6g}", _rank(each.rank, each.scored)]
            for each in found.scores
        ],
    )
    if found.lowest is not None:
        output.pool_rows("lowest rows of the pool", "score", found.lowest)
    return ExitCode.OK


def _rank(rank: int | None, scored: int) -> str:
    return "not scored" if rank is None else f"{rank} of {scored}"
