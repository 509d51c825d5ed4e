"""`ntksel info`: parse, call the step, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode, UsageError
from ntkcli.report import human_bytes


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog="Example: ntksel info med")(info)


def info(
    store: Annotated[Path | None, typer.Argument(help="The store's folder.", show_default=False)] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Show rows of this file, folder or Hub id as --model sees them.", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --data: whose tokenizer and chat template.", show_default=False)
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="With --data: how many rows.")] = 5,
    max_length: o.MaxLength = 1024,
    columns: o.Columns = None,
    split: o.Split = None,
    thinking: o.ThinkingOption = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Show what is in a store, complete or missing, and its disk space; or rows as a model sees them."""
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    if (store is None) == (data is None):
        raise UsageError("One thing can be shown at a time.", "Give a STORE, or --data FILE with --model M.")
    if store is not None:
        return _show_store(output, store)
    if data is None or model is None:
        raise UsageError(f"--data {data}: rows are shown as a model sees them.", "Give its --model too.")
    from ntkcli.steps.preview import preview

    found = preview(
        data,
        model=model,
        rows=rows,
        max_length=max_length,
        columns=o.parse_columns(columns),
        split=split,
        thinking=o.is_on(thinking),
    )
    if json:
        output.result(found, line="")
        return ExitCode.OK
    output.say(f"{found.data}: {found.schema} rows; what is supervised is marked")
    for row in found.rows:
        cut = ", truncated" if row.truncated else ""
        about = row.problem or f"{row.tokens} tokens, {row.supervised} supervised{cut}"
        output.say(f"\n{' '.join(word for word in (row.place, row.row_id, row.source) if word)}: {about}")
        output.marked([(piece.text, piece.supervised) for piece in row.pieces])
    return ExitCode.OK


def _show_store(output: Output, store: Path) -> int:
    from ntkcli.steps import info as step

    found = step.info(store)
    if output.as_json:
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
