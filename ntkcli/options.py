"""Options that several commands share: one spelling and one help text each."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ntkcli.errors import UsageError


class Kind(StrEnum):
    """Kinds of features."""

    NTK = "ntk"
    LOSS = "loss"
    EMBED = "embed"


class Probe(StrEnum):
    """Directions in logit space."""

    SUM = "sum"
    RADEMACHER = "rademacher"
    CENTRED = "centred"


class Pooling(StrEnum):
    """How hidden states become an embedding."""

    MEAN = "mean"
    WEIGHTED = "weighted"
    LAST = "last"


class Projection(StrEnum):
    """What becomes of a gradient."""

    SJLT = "sjlt"
    RADEMACHER = "rademacher"
    NONE = "none"


class Positions(StrEnum):
    """Which tokens a feature is made of."""

    COMPLETION = "completion"
    ALL = "all"
    LAST = "last"


class Dtype(StrEnum):
    """Number formats of the computation."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Schedule(StrEnum):
    """Courses of the learning rate."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class LossPer(StrEnum):
    """What a training loss is a mean over."""

    TOKEN = "token"  # noqa: S105  # not a password
    ROW = "row"


class StoreDtype(StrEnum):
    """Number formats that features are kept in."""

    FLOAT16 = "float16"
    INT8 = "int8"
    FLOAT32 = "float32"


class Thinking(StrEnum):
    """Whether a chat template's thinking is switched on."""

    ON = "on"
    OFF = "off"


class OnError(StrEnum):
    """What bad rows do."""

    FAIL = "fail"
    SKIP = "skip"


Store = Annotated[
    Path,
    typer.Argument(help="The store's folder; made by the first command that writes to it.", show_default=False),
]
Model = Annotated[
    str, typer.Option(help="Model folder, GGUF file or Hub id (org/name[@revision]).", show_default=False)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:I.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Number format; auto: bfloat16 on CUDA, else float32.")]
MaxLength = Annotated[
    int,
    typer.Option(
        min=3, help="Longest row in tokens; longer ones lose their oldest turns, else the prompt's beginning."
    ),
]
OnErrorOption = Annotated[
    OnError,
    typer.Option(
        "--on-error",
        help="Bad rows: stop before anything is written, or leave them out (exit 3). featurize, eval: also rows whose "
        "values are not finite, when they are met.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="A data file (JSONL, JSON, CSV, TSV, parquet, arrow), a folder or glob of them, a Hub id, or - for "
        "standard input.",
        show_default=False,
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        help="Columns of a data file by the names known here: prompt=question,completion=answer.",
        metavar="KNOWN=OWN,...",
        show_default="detected",
    ),
]
Split = Annotated[
    str | None,
    typer.Option("--split", help="Split of a folder or Hub id: train, test, ...", show_default="the only one"),
]
ThinkingOption = Annotated[
    Thinking | None,
    typer.Option(
        "--thinking",
        help="Switch a chat template's thinking on or off, also of one that only opens a thought (DeepSeek R1).",
        show_default="the template's own",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code that the model's folder brings; the spec says so."),
]
TokensOf = Annotated[
    str | None,
    typer.Option(
        "--tokens-of",
        help="How lengths are counted: as in these features of the pool, or whole rows by the tokenizer of this model.",
        metavar="FEATURE|MODEL",
        show_default="features that the score was made from, else the pool's only ones",
    ),
]
BatchTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens of a batch; default: what fits.", show_default="auto")
]
Json = Annotated[bool, typer.Option("--json", help="The result as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks of errors.")]
Moved = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Where the file of a data set is now, if it has moved: NAME=FILE, or FILE for the pool; repeatable.",
        metavar="[NAME=]FILE",
        show_default="where it was",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Write over a file that ntksel did not make; never over an input.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what it would take: rows, tokens, disk, memory, time.")
]


_RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
"""Variables that say which of how many processes this is: torchrun's, and those of a step of SLURM's."""


def own_shard() -> tuple[int, int]:
    """This process's share of the parts: its rank under torchrun or srun, else all of them.

    SLURM's number is the step's: a batch script that runs the program without srun is one process, whatever --ntasks.
    """
    for rank, size in _RANKS:
        if rank in os.environ and size in os.environ:
            index, count = os.environ[rank], os.environ[size]
            if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
                raise UsageError(
                    f"{rank}={index} and {size}={count} in the environment are no rank.",
                    "Unset them, or give --shard I/N.",
                )
            return int(index), int(count)
    return 0, 1


_OTHER_RANKS = (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))
"""Of mpirun: no command shares parts by these."""


def refuse_ranks(verb: str) -> None:
    """UsageError in one of several processes that torchrun, srun or mpirun started, for a command of one process.

    Each would do the same work, into one store; a training would wait for the others for ever.
    """
    for rank, size in (*_RANKS, *_OTHER_RANKS):
        index, count = os.environ.get(rank), os.environ.get(size)
        if index is not None and count is not None and count not in ("0", "1"):
            raise UsageError(
                f"ntksel {verb} is for one process, and {rank}={index} with {size}={count} in the environment say that "
                "there are several.",
                f"Start it once, without torchrun, srun or mpirun; else unset {rank} and {size}. "
                "Only featurize shares its work.",
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


def parse_shard(text: str) -> tuple[int, int]:
    """`I/N` as (I, N), 0 <= I < N."""
    index, _, count = text.partition("/")
    if index.isdigit() and count.isdigit() and int(index) < int(count):
        return int(index), int(count)
    raise UsageError(f"--shard {text} is no shard.", "Give I/N with I from 0 to N-1, as in 0/4.")


def parse_columns(text: str | None) -> dict[str, str] | None:
    """`known=own,...` as a dictionary; None for None. UsageError if it has another form."""
    if text is None:
        return None
    columns: dict[str, str] = {}
    for pair in text.split(","):
        known, equals, own = (part.strip() for part in pair.partition("="))
        if not (known and equals and own) or known in columns:
            raise UsageError(f"--columns {text}: {pair!r} is no KNOWN=OWN.", "As in prompt=question,completion=answer.")
        columns[known] = own
    return columns
