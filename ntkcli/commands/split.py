"""`ntksel split`: parse, call the step, show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntkcli import options as o
from ntkcli.choices import OnError
from ntkcli.console import Output
from ntkcli.errors import ExitCode, UsageError
from ntkcli.help_panels import Command, examples

if TYPE_CHECKING:
    from ntkcli.steps.splits.split import SplitResult

EXAMPLES = ("ntksel split domain.jsonl --test .2", "ntksel split exam.csv --folds 5 --by author --out folds")
ANSWERS_SHOWN = 8


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(*EXAMPLES))(split)


def split(
    data: Annotated[
        str,
        typer.Argument(help="A data file, folder, glob, Hub id, task, or - for standard input.", show_default=False),
    ],
    test: Annotated[
        float | None, typer.Option(help="Share of the rows in the test set, such as 0.2.", show_default="--folds")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Instead of --test: make this many folds, each used as the test set once.", show_default="--test"
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Rows with the same value in this column stay on one side (a.b: within an object).",
            metavar="FIELD",
            show_default="none",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the files to; created if missing.", show_default="next to DATA")
    ] = None,
    columns: o.Columns = None,
    split_name: o.Split = None,
    on_error: Annotated[
        OnError, typer.Option("--on-error", help="What to do with unusable rows: stop, or skip them (exit 3).")
    ] = OnError.FAIL,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files that hold other rows.")] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Split a data file into train and test, or folds; near-duplicates and groups stay on one side."""
    from ntkcli.data.stdin import STDIN, readable
    from ntkcli.steps.splits import split as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    if data == STDIN and out is None:
        raise UsageError("Standard input has no folder to write next to.", "Give --out FOLDER.")
    with readable(data) as place:
        result = step.split(
            place,
            test=test,
            folds=folds,
            by=by,
            seed=seed,
            out=out,
            label="stdin" if data == STDIN else None,
            columns=o.parse_columns(columns),
            split_name=split_name,
            on_error=on_error,
            force=force,
            progress=output.progress,
        )
    if json:
        output.result(result, line="")
    else:
        _show(result, output)
    train, held_out = result.sides[0].file, result.sides[1].file
    tested = "--domain {train} --task {held_out}"
    if folds is not None and data != STDIN and seed == 0 and columns is None:  # it makes the same folds
        tested = "--domain {data} --folds {folds}" + (" --by {by}" if by else "")
    command = f"ntksel arms STORE --model M {tested} --pool POOL -n N"
    output.next_step(command, train=train, held_out=held_out, data=data, folds=folds, by=by)
    return ExitCode.ROWS_SKIPPED if result.skipped else ExitCode.OK


def _show(result: SplitResult, output: Output) -> None:
    answers = list(dict.fromkeys(answer for side in result.sides for answer in side.answers))
    shown = answers if len(answers) <= ANSWERS_SHOWN else []
    rows = [
        [side.name, f"{side.rows:,}", f"{side.rows / result.rows:.1%}", f"{side.parts:,}"]
        + [f"{side.answers.get(answer, 0) / max(1, side.rows):.1%}" for answer in shown]
        for side in result.sides
    ]
    output.table(f"{result.data}: {result.rows:,} rows", ["side", "rows", "share", "parts", *shown], rows)
    output.say("")
    by = f"; {result.groups:,} values of {result.by!r}" if result.by else ""
    output.say(
        f"{result.parts:,} parts stay together, the largest of {result.largest:,} rows; {result.duplicates:,} rows say "
        f"what another says{by}"
        + ("; answers are divided in proportion, as far as parts allow" if result.stratified else "")
        + (f"; {result.skipped} rows skipped" if result.skipped else "")
    )
    done = "written" if result.written else "there already"
    for side in result.sides:
        output.say(f"{done}: {side.file}")
