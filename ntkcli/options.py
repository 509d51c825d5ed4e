"""Options that several commands share: one spelling and one help text each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ntkcli.choices import Dtype, OnError, TextAs, Thinking
from ntkcli.data.formats.registry import READERS
from ntkcli.doors import SPEC_KEY, Door, refuse_missing
from ntkcli.errors import UsageError
from ntkcli.paths import remote_url
from ntkcli.seeds import check_training_seed

FILES = ", ".join(READERS.builtin)
"""Formats of data files."""


def _refuse_url(context: typer.Context, value: Path | None) -> Path | None:
    """UsageError, naming the verb, if the store is a URL."""
    if value is not None and remote_url(value) is not None:
        from ntkcli.steps.shared.stores import refuse_url

        refuse_url(value, f"ntksel {context.info_name}")
    return value


Store = Annotated[
    Path,
    typer.Argument(
        help="Folder of the store; the first command that writes to it creates it.",
        show_default=False,
        is_eager=True,  # parsed first: a name that is not known may be that of a plug-in which it was made with
        callback=_refuse_url,
    ),
]
AnyStore = Annotated[
    Path, typer.Argument(help="Folder of the store, or the URL of a pushed one.", show_default=False, is_eager=True)
]
Model = Annotated[
    str, typer.Option(help="Base model: a folder, a GGUF file or a Hub id (org/name[@revision]).", show_default=False)
]
Device = Annotated[str, typer.Option(help="Device to compute on: auto, cpu, cuda or cuda:I.")]
DtypeOption = Annotated[
    Dtype, typer.Option("--dtype", help="Number format to compute in; auto: bfloat16 on CUDA, else float32.")
]
MaxLength = Annotated[
    int,
    typer.Option(min=3, help="Longest row in tokens; a longer row loses its oldest turns, or the start of its prompt."),
]
OnErrorOption = Annotated[
    OnError,
    typer.Option(
        "--on-error",
        help="What to do with unusable rows: stop before anything is written, or skip them (exit 3). featurize and "
        "eval also apply it to rows whose values are not finite.",
    ),
]
Data = Annotated[
    list[str],
    typer.Option(
        "--data",
        help=f"A data file ({FILES}), a folder or glob of them, a Hub id, or - for standard input; repeat it to read "
        "several as one data set.",
        show_default=False,
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        help="Map the names that ntksel knows to the columns of a data file: prompt=question,completion=answer.",
        metavar="KNOWN=OWN,...",
        show_default="detected",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Split to read from a folder or Hub id: train, test, ...", show_default="the only one"
    ),
]
ThinkingOption = Annotated[
    Thinking | None,
    typer.Option(
        "--thinking",
        help="Switch thinking on or off in the chat template; also works for templates that only open a thought "
        "(DeepSeek R1).",
        show_default="the template's own",
    ),
]
TextAsOption = Annotated[
    TextAs,
    typer.Option(
        "--text-as",
        help="How to read rows whose one column is text. chat: as a user's turn in the chat template; raw: as a "
        "document that ends with an end-of-text token, all of it supervised.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code from the model's folder; recorded in the spec."),
]
Folds = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Instead of --task: split the domain into this many folds, as `ntksel split` does, and test on each once.",
        show_default="--task",
    ),
]
FoldsBy = Annotated[
    str | None,
    typer.Option(
        "--by",
        help="With --folds: rows with the same value in this column stay in one fold (a.b: within an object).",
        metavar="FIELD",
        show_default="none",
    ),
]
TokensOf = Annotated[
    str | None,
    typer.Option(
        "--tokens-of",
        help="Count lengths as in these features of the pool, or as whole rows with the tokenizer of this model.",
        metavar="FEATURE|MODEL",
        show_default="the features of the score, else the only features of the pool",
    ),
]
BatchTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens per batch; by default as many as fit in memory.", show_default="auto")
]
ShardModel = Annotated[
    bool,
    typer.Option(
        "--shard-model",
        help="Under torchrun or srun: each process holds a share of the model's weights, for a model larger than one "
        "GPU.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no notes.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the full traceback of an error.")]
Moved = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Where a data set's file is now, if it was moved: NAME=FILE, or FILE for the pool; repeatable.",
        metavar="[NAME=]FILE",
        show_default="where it was",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite a file that ntksel did not create; an input is never overwritten.")
]
PushToHub = Annotated[
    str | None,
    typer.Option(
        "--push-to-hub",
        help="Push the result with a card to this repository on the Hugging Face Hub, private unless --public; log in "
        "with `hf auth login` or HF_TOKEN.",
        metavar="ORG/NAME",
        show_default="not pushed",
    ),
]
Public = Annotated[
    bool, typer.Option("--public", help="With --push-to-hub: make the repository public, or push to a public one.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Share the work between the GPUs of a Ray cluster (extra ray): its address, or local for this machine's.",
        metavar="local|ADDRESS",
        show_default="this process alone",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only show what the command would need: rows, tokens, disk, memory and time.")
]


def named(door: Door[Any], help: str, *, suffix: str = "", **more: Any) -> Any:  # noqa: A002  (as typer's own)
    """An option whose value is a name of a door: checked, listed in the help, and completed by a shell.

    Names of plug-ins are found by their entry points when one is needed; no code of theirs is imported. `suffix` is for
    the help, of an option in which a `=` and more may follow the name.
    """
    return typer.Option(
        help=help,
        metavar=_metavar(door.builtin, suffix),
        callback=_checked(door, suffix),
        autocompletion=lambda incomplete: [name for name in door.names() if name.startswith(incomplete)],
        **more,
    )


def _metavar(names: Iterable[str], suffix: str) -> str:
    return f"<{'|'.join(names)}>{suffix}"


def _checked(door: Door[Any], suffix: str) -> Callable[[typer.Context, Any], Any]:
    def check(context: typer.Context, value: str | list[str] | None) -> str | list[str] | None:
        for each in [value] if isinstance(value, str) else value or []:
            name = each.partition("=")[0] if suffix else each
            try:
                door.require(name)
            except UsageError as error:
                refuse_missing_name(context.params.get("store"), door, name)
                if name in door.names():  # brought twice
                    raise
                known = ", ".join(map(repr, door.names()))
                raise typer.BadParameter(f"{name!r} is not one of {known}.") from error
        return value

    check.door, check.suffix = door, suffix  # type: ignore[attr-defined]  # for `with_plugins`
    return check


def with_plugins(options: Iterable[Any]) -> None:
    """Add the names of plug-ins to what the help shows of these options."""
    for option in options:
        if (door := getattr(option.callback, "door", None)) is not None:
            option.metavar = _metavar(door.names(), option.callback.suffix)
        elif option.help and FILES in option.help:
            option.help = option.help.replace(FILES, ", ".join(READERS.names()))


def refuse_missing_name(store_path: Path | None, door: Door[Any], name: str) -> None:
    """UsageError naming the package, if the store holds something made with this entry of a plug-in that is gone."""
    from ntkcli.steps.shared.stores import is_store, open_store

    if store_path is not None and is_store(store_path):
        for artefact in open_store(store_path).artefacts(on_damage=lambda _: None):
            if artefact.spec.get(SPEC_KEY, {}).get(name, {}).get("door") == door.group:
                refuse_missing(artefact.spec, artefact.name)


_RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
"""Variables that say which of how many processes this is: torchrun's, and those of a step of SLURM's."""


def own_shard() -> tuple[int, int]:
    """This process's shard of the parts: its rank under torchrun or srun, else all of them.

    SLURM's number is the step's: a batch script that runs the program without srun is one process, whatever --ntasks.
    """
    for rank, size in _RANKS:
        if rank in os.environ and size in os.environ:
            index, count = os.environ[rank], os.environ[size]
            if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
                raise UsageError(
                    f"{rank}={index} and {size}={count} in the environment are not a valid rank.",
                    "Unset them, or give --shard I/N.",
                )
            return int(index), int(count)
    return 0, 1


_OTHER_RANKS = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))
"""Of mpirun: no command shares parts by these."""


def own_shard_of(verb: str, **reads: Sequence[str]) -> tuple[int, int]:
    """This process's shard of the parts, for a command whose processes take them in turns; mpirun's are refused.

    `reads` are references by their option: standard input is refused to one of several processes.
    """
    from ntkcli.data.stdin import refuse_shared

    refuse_ranks(verb, of=_OTHER_RANKS)
    shard = own_shard()
    for option, references in reads.items():
        refuse_shared(f"--{option}", references, shard[1])
    return shard


def refuse_ranks(verb: str, *, of: Sequence[tuple[str, str]] = (*_RANKS, *_OTHER_RANKS)) -> None:
    """UsageError in one of several processes that torchrun, srun or mpirun started, for a command of one process.

    Each would do the same work, into one store; a training would wait for the others for ever.
    """
    for rank, size in of:
        index, count = os.environ.get(rank), os.environ.get(size)
        if index is not None and count is not None and count not in ("0", "1"):
            raise UsageError(
                f"ntksel {verb} is for one process, and {rank}={index} with {size}={count} in the environment say that "
                "there are several.",
                f"Start it once, without torchrun, srun or mpirun; else unset {rank} and {size}. "
                "Only featurize, finetune, eval and score --method exact share their work, under torchrun and srun.",
            )


def own_device(device: str) -> str:
    """`auto`, under torchrun or SLURM with several processes a machine, as the device of this process's local rank."""
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    if device != "auto" or local is None or own_shard()[1] == 1:
        return device
    import torch

    return f"cuda:{int(local) % torch.cuda.device_count()}" if torch.cuda.is_available() else device


def is_on(thinking: Thinking | None) -> bool | None:
    """The option as a truth value; None if it wasn't given."""
    return None if thinking is None else thinking is Thinking.ON


def check_folds(task: Sequence[str], folds: int | None, by: str | None) -> None:
    """UsageError unless the test items are given in one way: tasks, or folds of the domain."""
    if folds is None and by is not None:
        raise UsageError(f"--by {by}: there are no folds to keep rows together in.", "Give --folds 5 too.")
    if folds is not None and task:
        raise UsageError("--task and --folds both say what to test on.", "Give one of them.")
    if folds is None and not task:
        raise UsageError(
            "--task is missing.", "Give the test items: --task FILE; or --folds 5, to test on the domain's own rows."
        )


def parse_shard(text: str) -> tuple[int, int]:
    """`I/N` as (I, N), 0 <= I < N."""
    index, _, count = text.partition("/")
    if index.isdigit() and count.isdigit() and int(index) < int(count):
        return int(index), int(count)
    raise UsageError(f"--shard {text} is not a valid shard.", "Give I/N with I from 0 to N-1, as in 0/4.")


def parse_columns(text: str | None) -> dict[str, str] | None:
    """`known=own,...` as a dictionary; None for None. UsageError if it has another form."""
    if text is None:
        return None
    columns: dict[str, str] = {}
    for pair in text.split(","):
        known, equals, own = (part.strip() for part in pair.partition("="))
        if not (known and equals and own) or known in columns:
            raise UsageError(
                f"--columns {text}: {pair!r} is not a valid KNOWN=OWN.", "As in prompt=question,completion=answer."
            )
        columns[known] = own
    return columns


def parse_seeds(text: str) -> list[int]:
    """The seeds of trainings in `0,1,2`. UsageError for anything that is not a whole number of 0 to 2^32 - 1."""
    seeds = parse_whole_numbers(text, "--seeds", "0,1,2")
    for seed in seeds:
        check_training_seed("--seeds", seed)
    return seeds


def parse_whole_numbers(text: str, option: str, example: str) -> list[int]:
    """The numbers in `100,300`. UsageError for anything that is not a whole number of 0 or more."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"{option} {text}: expected whole numbers, 0 or more.", f"As in {option} {example}.")
    return [int(part) for part in parts]


def parse_rates(text: str | None) -> list[float] | None:
    """The learning rates in `1e-4,3e-4`; None for None. UsageError for anything that is not a number."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--lr-rates {text}: expected numbers.", "As in --lr-rates 1e-4,3e-4,1e-3.") from error
