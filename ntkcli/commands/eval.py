"""`ntksel eval`: parse, call the step, show."""

from __future__ import annotations

from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.report import accuracy_table

EXAMPLE = "ntksel eval med --model ./Llama-3-8B --run base --run mixed --task test.jsonl --name test"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(name="eval", epilog=f"Example: {EXAMPLE}")(evaluate)


def evaluate(
    store: o.Store,
    model: o.Model,
    run: Annotated[
        list[str],
        typer.Option(
            help="base, a run of the store, or an adapter's folder; repeatable. The first is the baseline.",
            show_default=False,
        ),
    ],
    task: Annotated[
        list[str],
        typer.Option(
            help="Rows with prompt, choices and answer: a file, folder, Hub id or -; repeatable.", show_default=False
        ),
    ],
    name: Annotated[str, typer.Option(help="The eval's name.", show_default=False)],
    max_length: o.MaxLength = 1024,
    dtype: o.DtypeOption = o.Dtype.AUTO,
    device: o.Device = "auto",
    batch_tokens: o.BatchTokens = None,
    on_error: o.OnErrorOption = o.OnError.FAIL,
    columns: o.Columns = None,
    split: o.Split = None,
    thinking: o.ThinkingOption = None,
    trust_remote_code: o.TrustRemoteCode = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Evaluate runs on the same items, with intervals and paired tests."""
    from ntkcli.steps import evaluate as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    result = step.evaluate(
        store,
        model=model,
        run=run,
        task=task,
        name=name,
        max_length=max_length,
        dtype=dtype.value,
        device=device,
        batch_tokens=batch_tokens,
        on_error=on_error.value,
        columns=o.parse_columns(columns),
        split=split,
        thinking=o.is_on(thinking),
        trust_remote_code=trust_remote_code,
        progress=output.progress,
    )
    if json:
        output.result(result, line="")
    else:
        output.table(*accuracy_table(result))
        output.say(f"{result.items} items, {result.truncated} truncated, {result.skipped} skipped")
    return ExitCode.ROWS_SKIPPED if result.skipped else ExitCode.OK
