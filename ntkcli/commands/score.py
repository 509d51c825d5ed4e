"""`ntksel score`: parse, call the step, show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntkcli import options as o
from ntkcli.choices import Across, Dtype, GroupBy, OnError
from ntkcli.console import Output
from ntkcli.errors import ExitCode, UsageError
from ntkcli.help_panels import Command, examples
from ntkcli.steps.scores.options import ScoreOptions
from ntkcli.steps.scores.registry import SCORES

if TYPE_CHECKING:
    from ntkcli.steps.scores.score import ScoreResult

EXAMPLE = "ntksel score med --pool pool --domain domain --method cosine --centre --feature ntk --name stage2"
SECOND = "ntksel score med --pool pool --domain domain --method votes --feature embed --name stage1"
THIRD = "ntksel score med --pool pool --domain domain --method mean=paper --method cosine=plain --method gist=inside"


METHOD_HELP = (
    "Score of a pool row. "
    + "; ".join(f"{name}: {each.summary}" for name, each in SCORES.builtin.items())
    + ". Required, unless --combine or --compare is given. Repeatable as METHOD=NAME, with a name for each score: "
    "methods that compare features read them once, together, and each option applies to the methods that have it."
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(EXAMPLE, SECOND, THIRD))(score)


def score(
    context: typer.Context,
    store: o.Store,
    pool: Annotated[
        str | None,
        typer.Option(
            help="Data set to score: its name in the store, or NAME=FILE. Required with --method.", show_default=False
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the score in the store. Required, unless --compare or --method METHOD=NAME is given.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[list[str] | None, o.named(SCORES, METHOD_HELP, suffix="[=NAME]", show_default=False)] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            help="Data set of the domain: its name, or NAME=FILE; repeatable, one group each.",
            show_default="none, for random",
        ),
    ] = None,
    group_by: Annotated[
        GroupBy | None,
        typer.Option(help="Split each domain into groups by this field.", show_default="one group per domain"),
    ] = None,
    across: Annotated[
        Across, typer.Option(help="How the scores of several groups become one: the highest, or the mean.")
    ] = Across.MAX,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of the features of pool and domain; less: repeat it for several checkpoints.",
            show_default="ntk; loss for less",
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Score only the pool rows of this selection.", show_default="all")
    ] = None,
    centre: Annotated[
        bool,
        typer.Option(
            "--centre", "--center", help="Subtract the pool's mean feature from both sides (not with Adam's steps)."
        ),
    ] = False,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            min=1,
            help="votes, rds: how many nearest rows count for each domain row.",
            show_default="0.5% of the pool, at least 10",
        ),
    ] = None,
    subspace: Annotated[
        float | None,
        typer.Option(
            help="gist: the share of the domain's energy to keep (below 1), or how many directions.",
            show_default="0.9",
        ),
    ] = None,
    whiten: Annotated[
        float | None,
        typer.Option(
            help="Whiten both sides by the pool's second moment, damped by this share of its mean eigenvalue.",
            show_default="not whitened",
        ),
    ] = None,
    residual: Annotated[
        bool,
        typer.Option(
            "--residual",
            help="mean, cosine, max, gist: multiply each row's score by how wrong the model is on it (needs "
            "`featurize --losses`).",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="random, dsir: seed of the random numbers.")] = 0,
    match_length: Annotated[
        str | None,
        typer.Option(
            help="random: draw rows of similar length, in tokens, to this data set or selection.",
            show_default="any length",
        ),
    ] = None,
    tokens_of: o.TokensOf = None,
    combine: Annotated[
        list[str] | None,
        typer.Option(help="Instead of a method: take the mean rank of these scores; repeatable.", show_default="none"),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Only compare these scores of one pool, and write nothing; repeatable.", show_default="none"),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, help="--compare: how many of the top rows to compare.", show_default="a tenth"),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="--compare: draw the rows' ranks by each pair of scores: .png or .svg.", show_default="no picture"
        ),
    ] = None,
    force: o.Force = False,
    dtype: Annotated[
        Dtype, typer.Option("--dtype", help="exact: number format to compute in; auto is the one of the features.")
    ] = Dtype.AUTO,
    device: Annotated[str, typer.Option(help="exact: device to compute on: auto, cpu, cuda or cuda:I.")] = "auto",
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="exact: tokens per batch.", show_default="auto: what fits")
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error",
            help="What to do with unusable rows of a NAME=FILE and rows whose values are not finite: stop, or skip "
            "them (exit 3).",
        ),
    ] = OnError.FAIL,
    shard_model: o.ShardModel = False,
    ray: o.Ray = None,
    data: o.Moved = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Score every pool row against the domain, streaming over the pool."""
    from ntkcli.commands.on_ranks import holders
    from ntkcli.commands.on_ray import share_own
    from ntkcli.steps.scores import score as step

    shard = _shard(method or [])
    if shard_model and not method:
        raise UsageError("--shard-model is for --method exact, which runs the model.", "Leave it out.")
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    share_own(context, ray, store, output)
    if compare:
        if method or domain or rows or pool or name or combine:
            raise UsageError(
                "--compare takes scores that exist and writes nothing, so --name, --pool, --domain, --rows, --method "
                "and --combine do not apply.",
                "Leave them out.",
            )
        _compare(store, compare, n, output, plot=plot, force=force)
        return ExitCode.OK
    if plot is not None:
        raise UsageError("--plot is for --compare.", "`ntksel report` draws one score.")
    if n is not None:
        raise UsageError("-n is for --compare.", "Give -n to `ntksel select` to take that many rows.")
    if combine:
        if method or domain or rows or pool:
            raise UsageError(
                "--combine takes scores that exist, so --method, --domain, --rows and --pool do not apply.",
                "Leave them out.",
            )
        from ntkcli.steps.scores.combine import combine as combine_scores

        if name is None:
            raise UsageError("--name is missing.", "Give the score a --name.")
        results = [combine_scores(store, scores=combine, name=name, progress=output.progress)]
    else:
        if pool is None or not method:
            raise UsageError("--pool or --method is missing.", "Give both, or --combine SCORE twice.")
        options = ScoreOptions(
            domain=domain or (),
            group_by=group_by,
            across=across,
            feature=feature or (),
            rows=rows,
            centre=centre,
            k=k,
            subspace=subspace,
            whiten=whiten,
            residual=residual,
            seed=seed,
            match_length=match_length,
            tokens_of=tokens_of,
            dtype=dtype,
            device=device if shard[1] == 1 else o.own_device(device),
            batch_tokens=batch_tokens,
        )
        with holders(shard_model, options.device) as processes:
            results = step.scores(
                store,
                pool=pool,
                methods=_named(method, name),
                options=replace(options, processes=processes),
                on_error=on_error,
                data=data or (),
                shard=shard,
                progress=output.progress,
            )
    if shard[0] == 0:  # of several processes the first one shows the result
        _show(results, output, store, json=json)
    return ExitCode.ROWS_SKIPPED if any(result.skipped for result in results) else ExitCode.OK


def _show(results: Sequence[ScoreResult], output: Output, store: Path, *, json: bool) -> None:
    if json and len(results) > 1:
        output.result(results, line="")
    for result in results if len(results) == 1 or not json else ():
        output.result(
            result,
            line=f"{result.artefact}: {result.scored} of {result.rows} rows scored by {result.method}, "
            f"{result.low:.6g} to {result.high:.6g}, digest {result.digest}",
        )
        if output.draws:
            _draw_histogram(output, store, result.artefact.partition("/")[2])
    chosen = results[-1].artefact.partition("/")[2]
    command = "ntksel select {store} --score {chosen} -n N --name SELECTION --export FILE.jsonl"
    output.next_step(command, store=store, chosen=chosen)


def _draw_histogram(output: Output, store: Path, name: str) -> None:
    from ntkcli.steps.scores.histogram import histogram

    if (found := histogram(store, name)) is not None:
        output.histogram("rows by score", found.counts, f"{found.low:.4g}", f"{found.high:.4g}")


def _shard(methods: list[str]) -> tuple[int, int]:
    """Which parts are this process's: scores that compute (exact) share their work, all others are one process's."""
    from ntkcli.steps.scores.sorts import ModelScore

    if methods and all(isinstance(SCORES.get(each.partition("=")[0]), ModelScore) for each in methods):
        return o.own_shard_of("score")
    o.refuse_ranks("score")
    return 0, 1


def _named(methods: list[str], name: str | None) -> dict[str, str]:
    """Name -> method, from METHOD=NAME or from one METHOD and --name."""
    found: dict[str, str] = {}
    for each in methods:
        method, _, own = each.partition("=")
        if len(methods) > 1 and not own:
            raise UsageError(
                f"--method {method} has no name, and several scores need one each.", f"Give --method {method}=NAME."
            )
        if own and name is not None:
            raise UsageError(f"--name {name} and --method {each} both name a score.", "Leave --name out.")
        if not (own or name):
            raise UsageError("--name is missing.", "Give the score a --name.")
        if (own or name) in found:
            raise UsageError(f"--method: the name {own} is given twice.", "Give each score a name of its own.")
        found[own or name or ""] = method
    return found


def _compare(store: Path, names: list[str], n: int | None, output: Output, *, plot: Path | None, force: bool) -> None:
    from ntkcli.steps.scores.agreement import compare_scores
    from ntkcli.steps.scores.agreement_plot import write_plot
    from ntkcli.steps.shared.outputs import Inputs
    from ntkcli.steps.shared.pictures import check_picture
    from ntkcli.steps.shared.stores import open_store

    check_picture(plot, inputs=Inputs([], ()), stored=open_store(store), force=force)
    found = compare_scores(store, scores=names, n=n)
    if plot is not None:
        write_plot(plot, store, found)
    if output.as_json:
        output.result(found, line="")
        return
    output.table(
        f"{found.pool}: agreement of scores",
        ["pair", "rows", "Spearman", "Kendall", f"top {found.n} in common"],
        [
            [f"{p.first} · {p.second}", str(p.rows), f"{p.spearman:+.3f}", f"{p.kendall:+.3f}", f"{p.overlap:.1%}"]
            for p in found.pairs
        ],
    )
    rows = []
    for each in found.scores:
        length = "unknown" if each.length_correlation is None else f"{each.length_correlation:+.3f}"
        mix = ", ".join(f"{label or 'no label'} {count}" for label, count in list(each.top_sources.items())[:5])
        more = len(each.top_sources) - 5
        rows.append([each.score, str(each.scored), length, mix + (f" and {more} more" if more > 0 else "")])
    columns = ["score", "scored", "Spearman with length", f"top {found.n} by source"]
    output.table("each score", columns, rows)
