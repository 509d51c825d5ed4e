"""Several commands of this program one after the other in one process, as `run`, `arms` and `demo` do."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

import typer

from ntkcli.commands import eval as evaluation
from ntkcli.commands import explain, featurize, finetune, score, select
from ntkcli.console import Output, ThisThread
from ntkcli.errors import ExitCode, UsageError, parsing_message

if TYPE_CHECKING:
    from ntkcli.steps.pipelines.recipe import Recipe, Verb, Vocabulary

VERBS: Final = {
    "featurize": featurize,
    "score": score,
    "select": select,
    "explain": explain,
    "finetune": finetune,
    "eval": evaluation,
}
"""Commands that may be steps: each makes something once and finds it finished the next time."""
OF_THE_WHOLE = ("json", "quiet", "verbose", "dry-run", "help", "lr-find", "lr-rates", "lr-steps")
"""Options that belong to the whole, or ask a question instead of making what the next step reads."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ran: its exit code, its seconds, and its result where that was asked for as JSON."""

    command: str
    code: int
    seconds: float
    result: Any = None


def vocabulary() -> Vocabulary:
    """The words of the commands that may be steps, as the program itself has them."""
    commands = _commands()
    return {name: _verb(commands[name]) for name in VERBS}


def check_arguments(recipe: Recipe, words: Vocabulary) -> None:
    """Parse every step as the command line would, so that a slip in the last is found before the first runs."""
    commands = _commands()
    for number, step in enumerate(recipe.steps):
        arguments = step.arguments(words)
        try:
            commands[step.verb].make_context(step.verb, arguments[1:])
        except Exception as error:
            if (message := parsing_message(error)) is None:
                raise
            flag = next((k for k, o in words[step.verb].options.items() if f"'{o.flag}'" in message), "")
            raise UsageError(f"{recipe.where(number, flag)}: {message}") from error


def run_commands(
    commands: Sequence[Sequence[str]], output: Output, *, results_to_stderr: bool = False, hidden: Sequence[str] = (),
    ray: str | None = None,
) -> list[Done]:  # fmt: skip
    """Run the commands, each named on stderr before it starts; the first error ends it and tells which it was.

    The commands' own results go to stdout, to stderr if `results_to_stderr`, or, with `--json`, into what is returned;
    those of the `hidden` verbs, which the caller shows in its own way, go nowhere. With `ray`, a cluster's
    address, the parts of each are computed there first.
    """
    done: dict[int, Done] = {}

    def finish(i: int) -> None:
        done[i] = _run_one(commands, i, output, results_to_stderr=results_to_stderr, hidden=hidden)

    if ray is not None:
        from ntkcli.commands.on_ray import share_chain

        share_chain(ray, commands, finish, output)
    else:
        for i in range(len(commands)):
            finish(i)
    return [done[i] for i in range(len(commands))]


def _run_one(
    commands: Sequence[Sequence[str]], i: int, output: Output, *, results_to_stderr: bool, hidden: Sequence[str]
) -> Done:
    """Run the i-th of the commands."""
    from ntkcli.steps.pipelines.recipe import as_shell

    arguments = commands[i]
    shown = as_shell(arguments)
    output.progress.note(f"[{i + 1}/{len(commands)}] {shown}")
    began, text = time.monotonic(), io.StringIO()
    words = [*arguments, *(["--quiet"] if output.quiet else []), *(["--json"] if output.as_json else [])]
    aside = output.as_json or arguments[0] in hidden
    where = text if aside else sys.stderr if results_to_stderr else sys.stdout
    try:
        with contextlib.redirect_stdout(cast(Any, ThisThread(where))), Output.without_hints():
            code = _run(words)
    except Exception as error:
        error.add_note(f"(command {i + 1} of {len(commands)}: {shown})")
        raise
    result = json.loads(text.getvalue()) if output.as_json else None
    return Done(shown, code, time.monotonic() - began, result)


def exit_code(done: Sequence[Done]) -> int:
    """3 if any command skipped rows, else 0: a command that failed has ended the whole."""
    return ExitCode.ROWS_SKIPPED if any(each.code == ExitCode.ROWS_SKIPPED for each in done) else ExitCode.OK


def _run(arguments: list[str]) -> int:
    """Run a command of this program as the shell would, but let its errors rise to the one place that shows them."""
    code = _app()(arguments, standalone_mode=False)
    if code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    return int(code or 0)


def _commands() -> dict[str, Any]:
    return dict(typer.main.get_command(_app()).commands)  # type: ignore[attr-defined]  # a group, as it has commands


@cache
def _app() -> typer.Typer:
    """The command line of these verbs alone: the whole one has the commands that run chains."""
    app = typer.Typer(name="ntksel", add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    for verb in VERBS.values():
        verb.add_to(app)
    return app


def _verb(command: Any) -> Verb:
    from ntkcli.steps.pipelines.recipe import Option, Verb

    arguments = tuple(p.name for p in command.params if p.param_type_name == "argument" and p.name != "store")
    options = {}
    for parameter in command.params:
        flag = next(iter(parameter.opts), "")
        key = flag.lstrip("-")
        if parameter.param_type_name == "option" and key not in OF_THE_WHOLE:
            options[key] = Option(flag, bool(parameter.is_flag), bool(parameter.multiple))
    return Verb(arguments, options)
