"""`ntksel demo`: the whole method on a real model and real data, by the commands that it prints."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ntkcli import options as o
from ntkcli.commands import chain
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.formatting import comparison_table
from ntkcli.help_panels import Command, examples
from ntkcli.seeds import check_seed


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where everything lies, the commands that made it, and what the evaluation found."""

    folder: str
    store: str
    picked: str
    seconds: float
    commands: tuple[str, ...]
    verdicts: tuple[str, ...]
    evaluation: Any


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples("ntksel demo ntksel-demo", "ntksel demo another-demo --seed 1"))(demo)


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for data and store; a second run continues there.")] = Path(
        "ntksel-demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the rows drawn from the packages.")] = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Run the whole pipeline on SmolLM2-135M and legal text, in minutes on 2 CPU cores, and print its commands."""
    from ntkcli.demo import demo_model_path, write_demo_data
    from ntkcli.demo import pipeline as p
    from ntkcli.paths import home

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    o.refuse_ranks("demo")
    check_seed("--seed", seed)
    began = time.monotonic()
    folder = Path(home(folder))
    model = demo_model_path()
    data = write_demo_data(folder, seed=seed, n_train=p.N_TRAIN, n_test=p.N_TEST, n_pool=p.N_POOL)
    output.progress.note(
        f"{data.n_train} legal rows to learn from, {data.n_test} to test on, "
        f"{data.n_pool} general rows to choose from: {folder}"
    )
    picked = folder / "picked.jsonl"
    store = folder / "store"
    commands = p.demo_commands(store, model, data, picked)
    chain.run_commands(commands, Output(quiet=quiet, verbose=verbose), results_to_stderr=True)
    result = _result(folder, store, picked, commands, time.monotonic() - began)
    if json:
        output.result(result, line="")
        return ExitCode.OK
    output.say("\nThe demo ran these commands:\n")
    for command in result.commands:
        output.say(f"  {command}")
    output.say("")
    output.table(*comparison_table(result.evaluation))
    output.say("")
    for sentence in result.verdicts:
        output.say(sentence)
    output.say(
        f"{data.n_train} + {p.N_PICKED} rows, one seed and {data.n_test} test items show that the pipeline works; "
        "they can't show small effects."
    )
    output.say(f"In {result.seconds:.0f} s: chosen rows {picked}, store {store} (see `ntksel info {store}`).")
    return ExitCode.OK


def _result(folder: Path, store: Path, picked: Path, commands: list[list[str]], seconds: float) -> DemoResult:
    from ntkcli.demo import pipeline as p
    from ntkcli.steps.evaluation.evaluate import summary
    from ntkcli.steps.pipelines.recipe import as_shell

    verdicts: list[str] = []
    for baseline in (p.DOMAIN_ONLY, p.RANDOM):
        verdicts += summary(store, name="test", runs=[baseline, p.SELECTED]).sentences
    return DemoResult(
        folder=str(folder),
        store=str(store),
        picked=str(picked),
        seconds=seconds,
        commands=tuple(as_shell(arguments) for arguments in commands),
        verdicts=tuple(verdicts),
        evaluation=summary(store, name="test", runs=p.RUNS),
    )
