"""`ntksel info`: parse, call the step, show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntkcli import options as o
from ntkcli.choices import TextAs
from ntkcli.console import Output
from ntkcli.errors import ExitCode, UsageError
from ntkcli.help_panels import Command, examples
from ntkcli.paths import remote_url
from ntkcli.units import human_bytes

if TYPE_CHECKING:
    from ntkcli.steps.upkeep.info import StoreInfo
    from ntkcli.steps.upkeep.preview import Preview
    from ntkcli.steps.upkeep.verify import VerifyResult

EXAMPLES = (
    "ntksel info med --verify",
    "ntksel info s3://bucket/med",
    "ntksel info --data domain.jsonl --model M --rows 5",
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(*EXAMPLES))(info)


def info(
    store: Annotated[
        Path | None, typer.Argument(help="Folder of the store, or the URL of a pushed one.", show_default=False)
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Read everything and compare it with its digests; exit 1 if anything is damaged."
        ),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Like --verify, and forget damaged parts, so that the commands shown recompute only these."
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="Show rows of this file, folder or Hub id (- is standard input) as --model sees them.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="With --data: model whose tokenizer and chat template are used.", show_default=False),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="With --data: how many rows to show.")] = 5,
    max_length: o.MaxLength = 1024,
    columns: o.Columns = None,
    split: o.Split = None,
    thinking: o.ThinkingOption = None,
    text_as: o.TextAsOption = TextAs.CHAT,
    trust_remote_code: o.TrustRemoteCode = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Show what is in a store, complete, missing or damaged; or rows as a model sees them."""
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    if (store is None) == (data is None):
        raise UsageError("info shows either a store or rows of a file.", "Give a STORE, or --data FILE with --model M.")
    if store is not None:
        return _show_store(output, store, verify=verify, repair=repair)
    if verify or repair:
        raise UsageError("--verify and --repair need a store.", "Give a STORE.")
    if data is None or model is None:
        raise UsageError(f"--data {data}: rows are shown as a model sees them, and no model is given.", "Give --model.")
    from ntkcli.steps.upkeep.preview import preview

    found = preview(
        data,
        model=model,
        rows=rows,
        max_length=max_length,
        columns=o.parse_columns(columns),
        split=split,
        thinking=o.is_on(thinking),
        text_as=text_as,
        trust_remote_code=trust_remote_code,
    )
    _show_rows(output, found)
    return ExitCode.OK


def _show_rows(output: Output, found: Preview) -> None:
    if output.as_json:
        output.result(found, line="")
        return
    output.say(f"{found.data}: {found.schema} rows; what is supervised is marked")
    if found.form:
        output.say(found.form)
    for row in found.rows:
        cut = ", truncated" if row.truncated else ""
        if row.turns_dropped:
            cut += f", {row.turns_dropped} turns left out"
        about = row.problem or f"{row.tokens} tokens, {row.supervised} supervised{cut}"
        output.say(f"\n{' '.join(word for word in (row.place, row.row_id, row.source) if word)}: {about}")
        output.marked([(piece.text, piece.supervised) for piece in row.pieces])
    if found.rows_cut:
        turns = f"; {found.turns_dropped} turns left out" if found.turns_dropped else ""
        output.say(f"\n{found.rows_cut} of {len(found.rows)} rows cut to --max-length{turns}")


def _show_store(output: Output, store: Path, *, verify: bool, repair: bool) -> int:
    from ntkcli.steps.upkeep import info as step

    found = step.info(store, verify=verify, repair=repair, progress=output.progress)
    if output.as_json:
        output.result(found, line="")
    else:
        _show(found, output)
    return ExitCode.OK if found.sound else ExitCode.FAILURE


def _show(found: StoreInfo, output: Output) -> None:
    rows = []
    for artefact in found.artefacts:
        state = "stale" if artefact.stale else "complete" if artefact.complete else "unfinished"
        done = f"{artefact.rows_done}/{artefact.rows}"
        made_from = (f"{name} (removed)" if name in artefact.removed_parents else name for name in artefact.parents)
        rows.append([artefact.name, done, state, human_bytes(artefact.size_bytes), ", ".join(made_from)])
    output.table(
        f"{found.path}: {human_bytes(found.size_bytes)}, format {found.version}, {found.made_by}",
        ["artefact", "rows", "state", "disk", "made from"],
        rows,
    )
    _show_scores(found, output)
    for artefact in found.artefacts:
        if artefact.stale:
            output.say(f"stale: {artefact.stale}")
    if found.verified is not None:
        _show_verified(found.verified, output)
    else:
        for text in found.damaged:
            output.say(f"damaged: {text}")


def _show_scores(found: StoreInfo, output: Output) -> None:
    """How each score's values are spread, where the terminal has room for it."""
    names = [each.name.partition("/")[2] for each in found.artefacts if each.kind == "score" and each.complete]
    if not (names and output.draws) or remote_url(found.path) is not None:
        return
    from ntkcli.steps.scores.histogram import histogram

    pictures = [one for name in names if (one := histogram(found.path, name)) is not None]
    width = max((len(one.name) for one in pictures), default=0)
    for one in pictures:
        output.histogram(one.name.ljust(width), one.counts, f"{one.low:.4g}".rjust(10), f"{one.high:.4g}")


def _show_verified(verified: VerifyResult, output: Output) -> None:
    for finding in verified.findings:
        output.say(f"{'repaired' if finding.repaired else 'damaged'}: {finding.what}; {finding.mend}")
    for text in verified.unfinished:
        output.say(f"unfinished: {text}")
    read = f"{verified.rows} rows in {verified.parts} parts, {verified.adapters} adapters"
    left = sum(not finding.repaired for finding in verified.findings)
    state = "no damage" if not verified.findings else f"{len(verified.findings)} damaged, {left} of them not repaired"
    output.say(f"verified: {read} are good; {state}")
