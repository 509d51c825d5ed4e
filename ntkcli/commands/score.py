"""`ntksel score`: parse, call the step, show."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode

EXAMPLE = "ntksel score med --pool pool --domain domain --method mean --feature ntk --name stage2"


class Method(StrEnum):
    """Ways to score."""

    VOTES = "votes"
    MEAN = "mean"
    COSINE = "cosine"
    EXACT = "exact"
    RANDOM = "random"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog=f"Example: {EXAMPLE}")(score)


def score(
    store: o.Store,
    pool: Annotated[str, typer.Option(help="The data set to score.", show_default=False)],
    name: Annotated[str, typer.Option(help="The score's name.", show_default=False)],
    method: Annotated[
        Method,
        typer.Option(
            help="votes: of the domain's nearest rows; mean: the paper's kernel mean; cosine; exact: mean without "
            "a projection; random.",
            show_default=False,
        ),
    ],
    domain: Annotated[str | None, typer.Option(help="The data set to help.", show_default="none, for random")] = None,
    feature: Annotated[str, typer.Option(help="The features' name, on both sides.")] = "ntk",
    rows: Annotated[str | None, typer.Option(help="Only the pool rows of this selection.", show_default="all")] = None,
    centre: Annotated[bool, typer.Option("--centre", help="Subtract the pool's mean feature from both sides.")] = False,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            min=1,
            help="votes: rows that each domain row votes for.",
            show_default="0.5% of the pool, at least 10",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="random: the seed.")] = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Score every pool row against the domain, streaming over the pool."""
    from ntkcli.steps import score as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    result = step.score(
        store,
        pool=pool,
        name=name,
        method=method.value,
        domain=domain,
        feature=feature,
        rows=rows,
        centre=centre,
        k=k,
        seed=seed,
        progress=output.progress,
    )
    output.result(
        result,
        line=f"{result.artefact}: {result.scored} of {result.rows} rows scored by {result.method}, "
        f"{result.low:.6g} to {result.high:.6g}, digest {result.digest}",
    )
    output.next_step(f"ntksel select {store} --score {name} -n N --name SELECTION --export FILE.jsonl")
    return ExitCode.OK
