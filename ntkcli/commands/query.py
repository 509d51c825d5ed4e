"""`ntksel query`: parse, call the step, show."""

from __future__ import annotations

from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.help_panels import Command, examples

EXAMPLES = (
    'ntksel query med --pool pool --prompt "May I sell copies?" --completion "Yes, under clause 2."',
    "ntksel query med --pool pool --feature embed --row row.json -n 5 --bottom",
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(*EXAMPLES))(query)


def query(
    store: o.Store,
    pool: Annotated[str, typer.Option(help="Data set to search: its name in the store.", show_default=False)],
    text: Annotated[str | None, typer.Option(help="The row as plain text.", show_default="none")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The row's prompt; give --completion as well.", show_default="none")
    ] = None,
    completion: Annotated[str | None, typer.Option(help="The row's answer.", show_default="none")] = None,
    row: Annotated[
        str | None,
        typer.Option(help="File with one row, in any format of data; - reads standard input.", metavar="FILE|-"),
    ] = None,
    feature: Annotated[str, typer.Option(help="Name of the pool's features; their model is loaded.")] = "ntk",
    n: Annotated[int, typer.Option("-n", min=1, help="How many rows to show.")] = 10,
    bottom: Annotated[bool, typer.Option("--bottom", help="Also show the farthest rows, as many again.")] = False,
    centre: Annotated[
        bool,
        typer.Option(
            "--centre/--no-centre", "--center/--no-center", help="Subtract the pool's mean feature from both sides."
        ),
    ] = True,
    device: o.Device = "auto",
    data: o.Moved = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Show the pool rows that are most like a row you type in, by the pool's features."""
    from ntkcli.steps.scores.query import query as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    found = step(
        store,
        pool=pool,
        text=text,
        prompt=prompt,
        completion=completion,
        row=row,
        feature=feature,
        n=n,
        bottom=bottom,
        centre=centre,
        device=device,
        data=data or (),
        progress=output.progress,
    )
    if json:
        output.result(found, line="")
        return ExitCode.OK
    output.pool_rows(f"nearest of {found.scored} rows by {found.feature}", "cosine", found.nearest)
    if found.farthest is not None:
        output.pool_rows("farthest rows", "cosine", found.farthest)
    return ExitCode.OK
