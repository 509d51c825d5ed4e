"""`ntksel demo`: the whole method on a real model and real data, by the commands that it prints."""

from __future__ import annotations

import json as json_library
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from ntkcli.steps.evaluation.summary import EvaluateResult


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where everything lies, the commands that made it, and what the evaluation found."""

    folder: str
    store: str
    picked: str
    report: str
    licences: int
    """Of the passages taken."""
    licences_by_chance: float
    seconds: float
    commands: tuple[str, ...]
    verdicts: tuple[str, ...]
    evaluation: EvaluateResult


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
    """Find software licences in a general pool, train on them and report the gain: 5 minutes on 2 CPU cores."""
    from ntkcli.demo import demo_model_path, write_demo_data
    from ntkcli.demo import pipeline as p
    from ntkcli.engine.models.loading import load_tokenizer
    from ntkcli.identity import resolve_model
    from ntkcli.paths import home
    from ntkcli.steps.reports.report import report as write_report

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    o.refuse_ranks("demo")
    check_seed("--seed", seed)
    began = time.monotonic()
    folder = Path(home(folder))
    model = demo_model_path()
    data = write_demo_data(folder, load_tokenizer(resolve_model(str(model))), seed=seed)
    output.progress.note(
        f"{data.n_train} passages of software licences to learn from, {data.n_test} of other licences to test on, "
        f"{data.n_pool} passages to choose from, {data.n_licences} of them licences: {folder}"
    )
    picked, store = folder / "picked.jsonl", folder / "store"
    commands = p.demo_commands(store, model, data, picked)
    chain.run_commands(commands, Output(quiet=quiet, verbose=verbose), results_to_stderr=True)
    page = folder / "report.html"
    write_report(store, html=page, selection="picked", force=True, progress=output.progress)
    commands.append(["report", str(store), "--html", str(page), "--selection", "picked", "--force"])
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
    for sentence in (*result.verdicts, _perplexities(result.evaluation)):
        output.say(sentence)
    chance = f"{result.licences_by_chance:.0f}"
    output.say(f"{result.licences} of the {p.N_PICKED} chosen passages are licences; chance gives {chance}.")
    output.say(f"In {result.seconds:.0f} s. Chosen passages: {picked}, store: {store}")
    output.say(f"Report to open in a browser: {page}")
    return ExitCode.OK


def _perplexities(evaluation: EvaluateResult) -> str:
    """What came out, for who has never seen the table."""
    from ntkcli.demo import pipeline as p

    found = {score.arm: f"{math.exp(score.value):.1f}" for score in evaluation.scores}
    return (
        f"Perplexity on new licences, lower is better: {found[p.SELECTED]} with chosen passages, {found[p.RANDOM]} "
        f"with random ones, {found['base']} before training."
    )


def _result(folder: Path, data: DemoData, commands: list[list[str]], seconds: float) -> DemoResult:
    from ntkcli.demo import pipeline as p
    from ntkcli.demo.licences import SOURCE
    from ntkcli.steps.evaluation.evaluate import summary
    from ntkcli.steps.pipelines.recipe import as_shell

    store, picked = folder / "store", folder / "picked.jsonl"
    verdicts: list[str] = []
    for baseline in (p.RANDOM, p.DOMAIN_STEPS):
        verdicts += summary(store, name="test", runs=[baseline, p.SELECTED]).sentences
    sources = [json_library.loads(line)["source"] for line in picked.read_text(encoding="utf-8").splitlines()]
    return DemoResult(
        folder=str(folder),
        store=str(store),
        picked=str(picked),
        report=str(folder / "report.html"),
        licences=sources.count(SOURCE),
        licences_by_chance=p.N_PICKED * data.n_licences / data.n_pool,
        seconds=seconds,
        commands=tuple(as_shell(arguments) for arguments in commands),
        verdicts=tuple(verdicts),
        evaluation=summary(store, name="test", runs=p.RUNS),
    )
