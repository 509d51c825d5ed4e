"""The command line: all commands, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import logging
import sys
from contextvars import copy_context
from typing import Annotated

import typer

from ntkcli import __version__
from ntkcli.commands import (
    arms,
    demo,
    diagnose,
    explain,
    featurize,
    finetune,
    info,
    merge,
    pull,
    push,
    query,
    report,
    rm,
    score,
    select,
    split,
    tasks,
    validate,
)
from ntkcli.commands import eval as evaluation
from ntkcli.commands import run as recipe
from ntkcli.console import Output, print_anything
from ntkcli.errors import ExitCode, NtkselError, parsing_message
from ntkcli.group import ToldElsewhereError
from ntkcli.library_settings import without_library_settings
from ntkcli.notes import show_with
from ntkcli.progress import show_below_with
from ntkcli.signals import listen

EXIT_CODES = """Exit codes: 0 ok; 1 failure; 2 usage; 3 done, but rows were skipped; 10 no store, or an input is not
complete; 11 busy; 12 made with other settings; 130 interrupted, run the same command again."""

app = typer.Typer(
    name="ntksel",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Choose the training rows that help a language model most on a small domain, and prove it.",
    epilog=EXIT_CODES,
)

FLAGS = {
    "model": "--model",
    "model.remote_code": "--trust-remote-code",
    "adapter": "--adapter",
    "evals/adapter": "--run",
    "adapter.fresh.rank": "--rank",
    "adapter.fresh.target_modules": "--target-modules",
    "adapter.fresh.seed": "--adapter-seed",
    "encoder.max_length": "--max-length",
    "encoder.thinking": "--thinking",
    "encoder.text_as": "--text-as",
    "packed": "--pack",
    "projection.dim": "--dim",
    "projection.seed": "--seed",
    "probe_seed": "--seed",
    "data": "--data",
    "tasks": "--task",
    "generate": "--scorer",
    "generate.max_new_tokens": "--max-new-tokens",
    "generate.answer_pattern": "--answer-pattern",
    "generate.eos_token_id": "--model",
    "eos_token_id": "--model",
    "train": "--train",
    "score": "--score",
    "scores": "--score",
    "scores/scores": "--combine",
    "n": "-n",
    "k": "-k",
    "groups": "--group-by",
    "groups.across": "--across",
    "features": "--feature",
    "folds.by": "--by",
    "tokens": "--tokens-of",
    "pool": "--pool or --feature",
    "domain": "--domain or --feature",
    "validations/domain": "--domain",
    "validations/scorers": "--task",
    "validations/checkpoint_steps": "--hold-out",
    "validations/hold_out_of": "--hold-out",
    "average_weights": "--average-weights",
    "plugins": "the version of the plug-in",
}
"""Field of a spec → the option that sets it, where it isn't `--<field>`; a prefix stands for what is below it.

`evals/` and the like before it: in artefacts of that kind alone.
"""

NO_OPTION = frozenset({"version", "method_version", "exact", "lm_eval", "parents", "artefact", "arrays"})
"""First or last words of fields that no option sets: versions, and what follows from other fields."""


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
    exact_digests: Annotated[
        bool,
        typer.Option(
            "--exact-digests",
            envvar="NTKSEL_EXACT_DIGESTS",
            help="Re-hash files instead of trusting size, mtime and inode.",
        ),
    ] = False,
) -> None:
    if exact_digests:
        from ntkcli.digests import EXACT  # numpy with it, which `--help` need not wait for

        EXACT.set(True)
    if version:
        sys.stdout.write(f"ntksel {__version__}\n")
        raise typer.Exit


_VERBS = (
    *(featurize, score, select, explain, query, finetune, evaluation, validate, diagnose, arms, recipe, split),
    *(merge, tasks, info, report, push, pull, rm, demo),
)
for _verb in _VERBS:
    _verb.add_to(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    listen()
    print_anything()
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code. Errors are shown as one line on stderr."""
    output = Output(
        quiet="-q" in arguments or "--quiet" in arguments, verbose="-v" in arguments or "--verbose" in arguments
    )
    context = copy_context()  # so that --exact-digests, and what was noted, end with the command
    context.run(show_with, output.progress.note)
    context.run(show_below_with, output.progress.below)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it; what it lacks is for inference
    try:
        with without_library_settings(ranks=False):  # before torch is imported, which reads some at once
            code = context.run(app, arguments, standalone_mode=False)
    except Exception as error:
        return _report(error, output)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    if code == ExitCode.INTERRUPTED:  # typer turns the interrupt into this code, without a word
        output.error("interrupted. The store is intact: run the same command again to continue.")
    return code if isinstance(code, int) else ExitCode.OK


def flag_of(field: str, *, kind: str = "") -> str | None:
    """The option that sets a field (a dotted path) of the spec of an artefact of `kind`, such as evals.

    None if no option does: for versions, and for the name of an artefact that another was made from.
    """
    path = field
    while path:
        for known in (f"{kind}/{path}", path):
            if known in FLAGS:
                return FLAGS[known]
        path = path.rpartition(".")[0]
    if "/" in field or {field.partition(".")[0], field.rpartition(".")[2]} & NO_OPTION:
        return None
    return "--" + field.partition(".")[0].replace("_", "-")


def _report(error: Exception, output: Output) -> int:
    if output.verbose:
        output.traceback()
    text, code = _explain(error)
    if isinstance(error, ToldElsewhereError):
        return code
    output.details(error.details if isinstance(error, NtkselError) else ())
    output.error(" ".join([text, *getattr(error, "__notes__", [])]))  # which of several commands it was
    return code


def _explain(error: Exception) -> tuple[str, int]:
    """One line and the exit code for any error."""
    if isinstance(error, NtkselError):
        return str(error), error.code
    if isinstance(error, typer.Exit):
        return "", error.exit_code
    if (message := parsing_message(error)) is not None:
        return f"{message} See `ntksel COMMAND --help`.", int(getattr(error, "exit_code", ExitCode.USAGE))
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        text = f"{error.strerror or error}{where}. What was recorded is safe: fix it and run the same command again."
        return text, ExitCode.FAILURE
    if _out_of_memory(error):
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200].removesuffix(".")
        fix = "Give --dtype bfloat16 or a smaller model, or use a machine with more memory."
        return f"Out of memory: {reason}. What was recorded is safe. {fix}", ExitCode.FAILURE
    return _explain_store(error) or (
        f"{type(error).__name__}: {error}. This is a bug in ntksel; run again with -v for the traceback.",
        ExitCode.FAILURE,
    )


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out where no smaller batch helps: while a model was loaded, or a table was read."""
    if isinstance(error, RuntimeError) and "torch" in sys.modules:  # whoever raised it has torch
        from ntkcli.engine.memory import out_of_memory

        return out_of_memory(error)
    return isinstance(error, MemoryError)


def _explain_store(error: Exception) -> tuple[str, int] | None:
    import store  # numpy with it, which `--help` need not wait for
    from ntkcli.steps.shared.commands import message

    if not isinstance(error, store.StoreError):
        return None
    if isinstance(error, store.SpecDiffersError):
        kind = error.what.partition("/")[0]
        flags = ", ".join(sorted({flag for each in error.differences if (flag := flag_of(each.field, kind=kind))}))
        said = message(error)
        return f"{said} ({flags})." if flags else f"{said}.", ExitCode.SPEC_DIFFERS
    codes = {
        store.NameInvalidError: ExitCode.USAGE,
        store.NoStoreError: ExitCode.INCOMPLETE,
        store.IncompleteError: ExitCode.INCOMPLETE,
        store.MissingArtefactError: ExitCode.INCOMPLETE,
    }
    return f"{message(error)}.", codes.get(type(error), ExitCode.FAILURE)
