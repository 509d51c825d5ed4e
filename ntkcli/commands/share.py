"""A share of a command in a process of a cluster: what a driver asks for is run here as the command line would."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import sys
from contextvars import copy_context
from typing import Any

from ntkcli.errors import NtkselError
from ntkcli.library_settings import without_library_settings
from ntkcli.steps.cluster.jobs import Job, Outcome
from ntkcli.steps.shared.sharing import Share, ShareDoneError, sharing


def run_share(job: Job, folder: str) -> Outcome:
    """Run a job in the folder that the driver runs in; errors are returned. What is printed goes nowhere."""
    os.chdir(folder)
    try:
        return copy_context().run(_run, job)
    finally:
        if "torch" in sys.modules:  # the process stays for other jobs, and others may share its GPU
            from ntkcli.engine.models.release import free_memory

            free_memory()


def _run(job: Job) -> Outcome:
    share = Share(None if job.parts is None else {name: frozenset(parts) for name, parts in job.parts})
    silent = io.StringIO()
    try:
        with (
            without_library_settings(ranks=False),
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
            contextlib.nullcontext() if job.whole else sharing(share),
        ):
            code = _app()([*job.words, "--quiet"], standalone_mode=False)
            if code == 130:
                raise KeyboardInterrupt
    except ShareDoneError:
        pass
    except Exception as error:
        return Outcome(error=_portable(error))
    return Outcome(tuple(share.artefacts))


def _portable(error: Exception) -> Exception:
    """The error, if it comes through pickling as it is; else its text."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):  # noqa: S301  (our own, made just now)
            return error
    except Exception:  # of whatever the error holds
        return NtkselError(f"{type(error).__name__}: {error}")
    return NtkselError(f"{type(error).__name__}: {error}")


def _app() -> Any:
    """The program from its top, as a process that is started has it; commands themselves must not import it."""
    return importlib.import_module("ntkcli.app").app
