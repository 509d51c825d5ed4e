"""`ntksel run`: read a recipe, run its steps, show."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.commands import chain
from ntkcli.console import Output
from ntkcli.errors import ExitCode, UsageError
from ntkcli.help_panels import Command, examples


@dataclass(frozen=True, slots=True)
class RunResult:
    """The recipe, the commands that it runs, and what each made; no steps after a dry run."""

    recipe: str
    commands: tuple[str, ...]
    steps: tuple[chain.Done, ...] = ()
    seconds: float = 0.0


EXAMPLES = ("ntksel run --example", "ntksel run recipe.toml --dry-run")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(name="run", cls=Command, epilog=examples(*EXAMPLES))(run_recipe)


def run_recipe(
    recipe: Annotated[
        Path | None, typer.Argument(help="TOML file of steps; `--example` prints one.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the recipe and print the commands that would run.")
    ] = False,
    example: Annotated[bool, typer.Option("--example", help="Print an example recipe to start from.")] = False,
    ray: o.Ray = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Run the whole pipeline from a recipe; finished steps are skipped, so the same command continues after a kill."""
    from ntkcli.steps.pipelines.merging import merge_scores
    from ntkcli.steps.pipelines.recipe import EXAMPLE, as_shell, read_recipe
    from ntkcli.steps.pipelines.recipe_check import check_names

    o.refuse_ranks("run")
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    if example:
        text = EXAMPLE.read_text(encoding="utf-8")
        output.result({"recipe": text}, line=text.rstrip("\n"))
        return ExitCode.OK
    if recipe is None:
        raise UsageError("The recipe's file is missing.", "`ntksel run --example > recipe.toml` writes one.")
    words = chain.vocabulary()
    found = read_recipe(recipe, words)
    chain.check_arguments(found, words)
    check_names(found)
    commands = [step.arguments(words) for step in merge_scores(found.steps)]
    shown = tuple(as_shell(command) for command in commands)
    if dry_run:
        output.result(RunResult(str(recipe), shown), line="\n".join(shown))
        return ExitCode.OK
    began = time.monotonic()
    done = chain.run_commands(commands, output, ray=ray)
    if json:
        output.result(RunResult(str(recipe), shown, tuple(done), time.monotonic() - began), line="")
    else:
        output.progress.note(f"{recipe}: {len(done)} commands in {time.monotonic() - began:.0f} s")
    return chain.exit_code(done)
