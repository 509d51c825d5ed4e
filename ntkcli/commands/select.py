"""`ntksel select`: parse, call the step, show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ntkcli import options as o
from ntkcli.choices import Format, Leaks
from ntkcli.console import Output
from ntkcli.errors import ExitCode, UsageError
from ntkcli.help_panels import Command, examples
from ntkcli.selection.registry import SELECTORS

if TYPE_CHECKING:
    from ntkcli.steps.selections.select import SelectResult

EXAMPLE = "ntksel select med --score stage2 -n 9000 --name picked --export picked.jsonl"
SECOND = "ntksel select med --score stage2 --token-budget 2000000 --max-per-source 20% --dedup minhash --name varied"
SOURCES_SHOWN = 5


METHOD_HELP = (
    "How rows are selected. " + "; ".join(f"{name}: {each.summary}" for name, each in SELECTORS.builtin.items()) + "."
)
QUOTA_HELP = "rows per source: a count, a share (20%), or LABEL=COUNT; repeatable."


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(EXAMPLE, SECOND))(select)


def select(
    store: o.Store,
    score: Annotated[str, typer.Option(help="Score to select by.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the selection in the store.", show_default=False)],
    n: Annotated[
        str | None,
        typer.Option(
            "-n",
            help="How many rows to take. auto: stop when a row gains less than 5% of what the first one gained; for "
            "top the gain is the score minus the median, and scores without an elbow are refused.",
            show_default="what --token-budget allows",
        ),
    ] = None,
    method: Annotated[str, o.named(SELECTORS, METHOD_HELP)] = "top",
    exponent: Annotated[
        float, typer.Option(help="coverage: 1 takes the highest mean cosines; a lower value spreads the choice more.")
    ] = 0.5,
    max_per_source: Annotated[
        list[str] | None, typer.Option(help=f"Take at most this many {QUOTA_HELP}", show_default="no limit")
    ] = None,
    min_per_source: Annotated[
        list[str] | None, typer.Option(help=f"Take at least this many {QUOTA_HELP}", show_default="none")
    ] = None,
    token_budget: Annotated[
        int | None, typer.Option(min=1, help="Take rows up to this many tokens in total.", show_default="none")
    ] = None,
    match_tokens: Annotated[
        str | None,
        typer.Option(help="Take rows up to as many tokens as this selection of the pool has.", show_default="none"),
    ] = None,
    min_tokens: Annotated[
        int | None, typer.Option(min=1, help="Take only rows of at least this many tokens.", show_default="any")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Take only rows of at most this many tokens.", show_default="any")
    ] = None,
    tokens_of: o.TokensOf = None,
    dedup: Annotated[
        str | None,
        typer.Option(
            help="Leave out duplicates. exact: the same words; minhash: nearly the same words; a number such as 0.95: "
            "features with a higher cosine.",
            show_default="keep all",
        ),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="For methods that compare features: choose among this many rows, the best by score that pass the "
            "filters.",
            show_default="all",
        ),
    ] = None,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(
            help="Never take these rows: a selection of the store, a file with one id per line, or a data file of any "
            "kind; repeatable.",
            show_default="none",
        ),
    ] = None,
    must_include: Annotated[
        list[Path] | None,
        typer.Option(help="Take these rows first; same forms as --exclude.", show_default="none"),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Take only these rows; same forms as --exclude, or source=LABEL,...; repeatable.",
            metavar="FILE|source=A,...",
            show_default="all",
        ),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Test file whose items are searched for in the rows; repeatable.", show_default="tasks of evals"
        ),
    ] = None,
    leaks: Annotated[
        Leaks,
        typer.Option(
            help="What to do with rows that hold test items: leave them out and report them, only report them, or "
            "don't look for any."
        ),
    ] = Leaks.REMOVE,
    feature: Annotated[
        str | None, typer.Option(help="Features that --method and --dedup compare.", show_default="those of the score")
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(help="Domain data sets that --method compares with.", show_default="those of the score"),
    ] = None,
    centre: Annotated[
        bool, typer.Option("--centre", "--center", help="Compare centred features; always on for a centred score.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write the rows to this file, with ntksel_score and ntksel_rank: .jsonl, .parquet or a folder.",
            show_default="no file",
        ),
    ] = None,
    schema: Annotated[
        Format, typer.Option("--format", help="Columns of the export: those of the pool, or the schema of a trainer.")
    ] = Format.OWN,
    export_scores: Annotated[
        Path | None,
        typer.Option(help="Write all scores of the pool to this .parquet file.", show_default="no file"),
    ] = None,
    force: o.Force = False,
    data: o.Moved = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Write why each row was chosen into the folder reports/ of the store.")
    ] = False,
    push_to_hub: o.PushToHub = None,
    public: o.Public = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Select the rows that help most, and export them."""
    from ntkcli.steps.selections import select as step

    o.refuse_ranks("select")
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    if export is None and push_to_hub is None and schema is not Format.OWN:
        raise UsageError(f"--format {schema} is given without --export.", "Give --export FILE.")
    result = step.select(
        store,
        score=score,
        n=_rows(n),
        name=name,
        method=method,
        exponent=exponent,
        constraints=step.Constraints(
            max_per_source=tuple(max_per_source or ()),
            min_per_source=tuple(min_per_source or ()),
            token_budget=token_budget,
            min_tokens=min_tokens,
            max_tokens=max_tokens,
            dedup=dedup,
            exclude=tuple(exclude or ()),
            must_include=tuple(must_include or ()),
            against=tuple(against or ()),
            leaks=leaks,
            tokens_of=tokens_of,
            only=tuple(only or ()),
            match_tokens=match_tokens,
            candidates=candidates,
        ),
        feature=feature,
        domain=domain or (),
        centre=centre,
        export=export,
        schema=schema,
        scores_export=export_scores,
        force=force,
        data=data or (),
        explain=explain,
        push_to_hub=push_to_hub,
        public=public,
        progress=output.progress,
    )
    for option, count in result.removed.items():
        output.progress.note(f"{option}: {count} rows left out")
    shown = ", ".join(f"{label or 'no label'} {count}" for label, count in list(result.sources.items())[:SOURCES_SHOWN])
    more = len(result.sources) - SOURCES_SHOWN
    output.result(
        result,
        line=f"{result.artefact}: {result.rows} of {result.scored} scored rows, lowest score {result.lowest:.6g}; "
        f"sources: {shown}" + (f" and {more} more" if more > 0 else "") + f"; digest {result.digest}",
    )
    if output.alone and not output.as_json and any(result.pool_sources):
        output.table(*_mix_table(result))
    command = "ntksel finetune {store} --model M --train DOMAIN.jsonl --train {name} --name RUN"
    output.next_step(command, store=store, name=name)
    return ExitCode.OK


def _mix_table(result: SelectResult) -> tuple[str, list[str], list[list[str]]]:
    """The mix of sources before and after: the most frequent ones of the pool and of the selection, and the rest."""
    before, after = result.pool_sources, result.sources
    shown = list(dict.fromkeys([*list(before)[:SOURCES_SHOWN], *list(after)[:SOURCES_SHOWN]]))
    counts = [(label or "no label", before.get(label, 0), after.get(label, 0)) for label in shown]
    if more := len(before) - len(shown):
        pool, chosen = (sum(mix.values()) - sum(mix.get(label, 0) for label in shown) for mix in (before, after))
        counts.append((f"{more} others", pool, chosen))
    rows = []
    for label, pool, chosen in counts:
        share, taken = pool / sum(before.values()), chosen / result.rows
        times = f"{taken / share:.2f}" if share else ""
        rows.append([label, f"{pool:,}", f"{share:.1%}", f"{chosen:,}", f"{taken:.1%}", times])
    return "sources before and after", ["source", "pool", "share", "selected", "share", "selected over pool"], rows


def _rows(text: str | None) -> int | Literal["auto"] | None:
    if text is None or text == "auto":
        return "auto" if text else None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"-n {text} is not a valid number of rows.", "Give a whole number from 1, or auto.")
    return int(text)
