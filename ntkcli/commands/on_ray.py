"""`--ray`: connect, ask every machine, share the commands, and finish each in this process."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import typer

from ntkcli import options as o
from ntkcli.commands.share import run_share
from ntkcli.console import Output, ThisThread
from ntkcli.errors import UsageError
from ntkcli.help_panels import ARGUMENTS
from ntkcli.progress import Progress
from ntkcli.steps.cluster.drive import Driver
from ntkcli.steps.cluster.jobs import Job, Outcome, Pool
from ntkcli.steps.cluster.nodes import ask, refuse_unfit
from ntkcli.steps.cluster.ray_pool import RayPool, connected, gpu_share, model_bytes, own_threads
from ntkcli.steps.cluster.words import for_share, is_shared, values
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.run import alone
from store import Store


def share_own(context: typer.Context, address: str | None, store: Path, output: Output) -> None:
    """Share the command that is running, with `--ray`: its parts are in the store then, and it finds them finished."""
    if address is not None:
        share_words([str(context.info_name), *context.meta[ARGUMENTS]], address, store, output.progress)


def share_words(words: Sequence[str], address: str, store: Path, progress: Progress) -> None:
    """As `share_own`, for the words of a command."""
    if not is_shared(words):
        raise UsageError("--ray is for --method exact: other scores take no model, and less time.", "Leave it out.")
    if "--shard" in words or any(word.startswith("--shard=") for word in words):
        raise UsageError("--shard and --ray both share the parts.", "Give one of them.")
    if "--shard-model" in words:
        raise UsageError("--shard-model is for processes of torchrun or srun, and --ray starts its own.", "Give one.")
    o.refuse_ranks(f"{words[0]} --ray")
    if "-" in words:
        raise UsageError("Standard input is not there on other machines.", "With --ray, give a file.")
    with pool_of(address, store, [words]) as pool:
        Driver(pool, store, lambda _: None, progress).run([words])


def share_chain(address: str, commands: Sequence[Sequence[str]], finish: Callable[[int], None], output: Output) -> None:
    """Share the commands of a chain; `finish(i)` runs command i here when its parts are done.

    UsageError if they are of several stores: one is held against a second cluster.
    """
    stores = {command[1] for command in commands}
    if len(stores) > 1:
        raise UsageError(f"--ray: the commands are of several stores: {', '.join(sorted(stores))}.", "Give one.")
    store = Path(stores.pop())
    with pool_of(address, store, commands) as pool:
        output.progress.note(f"{len(commands)} commands on {pool.slots} processes of Ray")
        Driver(pool, store, finish, output.progress).run(commands)


@contextmanager
def pool_of(address: str, store: Path, commands: Sequence[Sequence[str]]) -> Iterator[Pool]:
    """The cluster, every machine of it asked, and the store held against a second cluster."""
    shared = [for_share(command) for command in commands if is_shared(command)]
    words = [word for command in shared for word in command]
    devices = {*values(words, "--device")} - {"auto", "cpu", "cuda"}
    if devices:
        raise UsageError(f"--device {min(devices)} with --ray: Ray gives each job its GPU.", "Leave it out.")
    with contextlib.redirect_stdout(cast(Any, ThisThread(sys.stdout))), connected(address):
        stored = open_store(store, create=True)
        with alone(stored.path / "tmp", "works on this store through Ray"):
            question = ask(stored, words, list(_models(stored, shared)))
            gpu, threads = "cpu" not in values(words, "--device"), own_threads()
            answers = RayPool(_run, gpu=gpu, gpu_share=1.0, threads=threads).ask(question)
            refuse_unfit(question, answers, stored.path)
            share = gpu_share(
                max(map(model_bytes, question.models), default=0),
                min(answer.gpu_bytes for answer in answers),
                bounded=all(values(command, "--batch-tokens") for command in shared),
            )
            yield RayPool(_run, gpu=gpu, gpu_share=share, threads=threads)


def _models(stored: Store, commands: Sequence[Sequence[str]]) -> Iterator[str]:
    """The models that the commands load: as given, or those that the features of an exact score were made with."""
    for command in commands:
        yield from values(command, "--model")
        for pool in values(command, "--pool") if command[0] == "score" else ():
            for feature in values(command, "--feature") or ["ntk"]:
                known = stored.find(f"features/{pool.partition('=')[0]}/{feature}")
                if known is not None:
                    yield str(known.attrs["model"])


def _run(job: Job, folder: str, threads: int) -> Outcome:
    """A job in a process of Ray, with as many threads as the driver."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    return run_share(job, folder)
