"""`ntksel demo`: the whole method on a real model and real data, by the commands that it prints."""

from __future__ import annotations

import json as json_library
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntkcli import options as o
from ntkcli.commands import chain
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.formatting import comparison_table
from ntkcli.help_panels import Command, examples
from ntkcli.seeds import check_seed

if TYPE_CHECKING:
    from ntkcli.demo import DemoData


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where everything lies, the commands that made it, and what the evaluation found."""

    folder: str
    store: str
    picked: str
    report: str
    wanted: int
    """Of the rows taken, how many are of the domain's kind."""
    wanted_by_chance: float
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
    """Find licence notices in a general pool, train on them, and report the gain: in minutes on 2 CPU cores."""
    from ntkcli.demo import demo_model_path, write_demo_data
    from ntkcli.demo import pipeline as p
    from ntkcli.paths import home
    from ntkcli.steps.reports.report import report as write_report

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    o.refuse_ranks("demo")
    check_seed("--seed", seed)
    began = time.monotonic()
    folder = Path(home(folder))
    model = demo_model_path()
    data = write_demo_data(folder, seed=seed, n_train=p.N_TRAIN, n_test=p.N_TEST, n_pool=p.N_POOL, n_hidden=p.N_HIDDEN)
    output.progress.note(
        f"{data.n_train} licence notices to learn from, {data.n_test} to test on, {data.n_pool} rows to choose from, "
        f"among them {data.n_hidden} about licences: {folder}"
    )
    picked, store = folder / "picked.jsonl", folder / "store"
    commands = p.demo_commands(store, model, data, picked)
    chain.run_commands(commands, Output(quiet=quiet, verbose=verbose), results_to_stderr=True)
    page = folder / "report.html"
    write_report(store, html=page, force=True, progress=output.progress)
    commands.append(["report", str(store), "--html", str(page), "--force"])
    result = _result(folder, data, commands, time.monotonic() - began)
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
    chance = f"{result.wanted_by_chance:.0f}"
    output.say(f"{result.wanted} of the {p.N_PICKED} chosen rows are about licences; chance gives {chance}.")
    output.say(f"In {result.seconds:.0f} s. Chosen rows: {picked}, store: {store}, report to open in a browser: {page}")
    return ExitCode.OK


def _result(folder: Path, data: DemoData, commands: list[list[str]], seconds: float) -> DemoResult:
    from ntkcli.demo import pipeline as p
    from ntkcli.demo.domain import HIDDEN_SOURCE
    from ntkcli.steps.evaluation.evaluate import summary
    from ntkcli.steps.pipelines.recipe import as_shell

    store, picked = folder / "store", folder / "picked.jsonl"
    verdicts: list[str] = []
    for baseline in (p.RANDOM, p.DOMAIN_ONLY):
        verdicts += summary(store, name="test", runs=[baseline, p.SELECTED]).sentences
    sources = [json_library.loads(line)["source"] for line in picked.read_text(encoding="utf-8").splitlines()]
    return DemoResult(
        folder=str(folder),
        store=str(store),
        picked=str(picked),
        report=str(folder / "report.html"),
        wanted=sources.count(HIDDEN_SOURCE),
        wanted_by_chance=p.N_PICKED * data.n_hidden / data.n_pool,
        seconds=seconds,
        commands=tuple(as_shell(arguments) for arguments in commands),
        verdicts=tuple(verdicts),
        evaluation=summary(store, name="test", runs=p.RUNS),
    )
