"""Fine-tune a LoRA adapter on rows of the store or of files, resumable, its course kept step by step."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import store
from ntkcli import __version__
from ntkcli.data import BadRow, Encoded, Encoder, RowError
from ntkcli.data.files import OnError
from ntkcli.data.problems import BAD_KEPT, refusal, unusable
from ntkcli.errors import BusyError, DataError, UsageError
from ntkcli.identity import BASE_RECORD, ModelIdentity, resolve_model
from ntkcli.progress import Progress, Silent
from ntkcli.steps import seal
from ntkcli.steps.inputs import (
    RowSet,
    encoder_spec,
    note_conversion,
    open_store,
    require_spec,
    resolve_rows,
    settle_dtype,
)
from store import atomic

if TYPE_CHECKING:
    from ntkcli.engine.training import Step, TrainingOptions

VERSION = 1
"""Of the training, in every spec: goes up when the same settings would give other weights."""
CHECKPOINTS = 10
"""Checkpoints a run makes by default: a kill loses a tenth of it at most."""


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """The artefact and the adapter's folder; rows trained on, steps, and the mean loss of the first and last tenth."""

    artefact: str
    adapter: str
    rows: int
    truncated: int
    skipped: int
    steps: int
    first_loss: float
    last_loss: float
    tokens: int
    digest: str


def finetune(
    store_path: str | Path,
    *,
    model: str,
    train: Sequence[str],
    name: str,
    epochs: int = 3,
    lr: float = 2e-4,
    rank: int = 16,
    alpha: float | None = None,
    target_modules: str = "all-linear",
    batch_size: int = 16,
    max_length: int = 1024,
    seed: int = 0,
    dtype: str = "auto",
    device: str = "auto",
    checkpoint_steps: int | None = None,
    on_error: OnError = "fail",
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    thinking: bool | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train `adapters/<name>` on the rows of all `train` references together; its course is `runs/<name>`.

    A reference is a selection of the store, a data set of it, or a data file. `alpha` is LoRA's (default 2·rank).
    `columns` and `split` are of files: `ntkcli.data.DataFile`; `thinking`: `ntkcli.data.Encoder`.
    Defaults for epochs from arXiv 2511.07380; learning rate and rank as LESS has them.

    Raises:
        UsageError, DataError: a reference, an option or a row can't be used.
        store.SpecDiffersError: a run of this name was made with other settings.
    """
    progress = progress or Silent()
    if epochs < 1 or batch_size < 1 or rank < 1 or not lr > 0:
        raise UsageError("--epochs, --batch-size, --rank and --lr must be positive.")
    store.check_name(name, "--name")
    identity = resolve_model(model, trust_remote_code=trust_remote_code)
    stored = open_store(store_path, create=True)
    sets = [
        resolve_rows(stored, reference, option="--train", columns=columns, split=split, on_error=on_error)
        for reference in train
    ]
    known = stored.find(f"runs/{name}")
    spec = {
        "version": VERSION,
        "model": identity.spec,
        "encoder": encoder_spec(max_length, thinking),
        "train": [rows.spec for rows in sets],
        "epochs": epochs,
        "lr": lr,
        "rank": rank,
        "alpha": float(2 * rank if alpha is None else alpha),
        "target_modules": target_modules,
        "batch_size": batch_size,
        "seed": seed,
        "dtype": settle_dtype(dtype, device, known),
    }
    folder = stored.adapter_path(name)
    if known is not None and known.spec == spec and is_finished(stored, known):
        progress.note(f"{known.name} is finished already: {known.n} steps")
        return _result(known, folder)
    if known is not None:
        require_spec(known, spec)
    from ntkcli.engine.training import TrainingOptions, count_steps

    note_conversion(identity, progress)
    loaded, rows, counts = _load(identity, sets, spec, device, on_error)
    options = TrainingOptions(
        epochs=epochs,
        learning_rate=lr,
        batch_size=batch_size,
        rank=rank,
        alpha=float(str(spec["alpha"])),
        target_modules=target_modules,
        seed=seed,
        checkpoint_steps=0,
    )
    steps = count_steps(len(rows), options)
    artefact = stored.create(
        f"runs/{name}",
        kind=store.Kind.RUN,
        spec=spec,
        parents={key: value for rows_of in sets for key, value in rows_of.parents.items()},
        n=steps,
        part_rows=checkpoint_steps or max(1, math.ceil(steps / CHECKPOINTS)),
        arrays={
            "loss": store.ArraySpec("float32"),
            "learning_rate": store.ArraySpec("float64"),
            "tokens": store.ArraySpec("int64"),
        },
        attrs={"train": list(train), **counts},
    )
    options = TrainingOptions(**{**asdict(options), "checkpoint_steps": artefact.part_rows})
    with alone(folder):
        _train(artefact, loaded, rows, options, folder, progress)
        _record(folder, artefact, identity)
    return _result(artefact, folder)


def is_finished(stored: store.Store, run: store.Artefact) -> bool:
    """Whether the run's steps are all recorded and its adapter stands, sealed for this very run."""
    return run.complete and seal.stands(stored.adapter_path(run.name.partition("/")[2]), run.fingerprint)


def _load(
    identity: ModelIdentity, sets: Sequence[RowSet], spec: dict[str, Any], device: str, on_error: OnError
) -> tuple[Any, list[Encoded], dict[str, int]]:
    from ntkcli.engine.models import load_model, load_tokenizer

    encoder = Encoder(
        load_tokenizer(identity),
        max_length=spec["encoder"]["max_length"],
        thinking=spec["encoder"].get("thinking"),
    )
    rows: list[Encoded] = []
    bad: list[BadRow] = []
    skipped = 0
    for source in sets:
        for row in source:
            if isinstance(row, BadRow):  # scanned before: only left in where bad rows may be skipped
                skipped += 1
                continue
            try:
                rows.append(encoder.encode(row))
            except RowError as error:
                bad.append(unusable(row, error))
    if bad and on_error == "fail":
        raise refusal(bad[:BAD_KEPT], len(bad))
    skipped += len(bad)
    supervised = [row for row in rows if row.supervised.any()]
    if not supervised:
        labels = ", ".join(source.label for source in sets)
        raise DataError(f"--train {labels}: no row has an answer to learn.", "Give rows with completions.")
    counts = {
        "rows": len(supervised),
        "truncated": sum(row.truncated for row in supervised),
        "skipped": skipped + len(rows) - len(supervised),
    }
    return load_model(identity, dtype=spec["dtype"], device=device), supervised, counts


def _train(
    artefact: store.Artefact,
    loaded: Any,
    rows: Sequence[Encoded],
    options: TrainingOptions,
    folder: Path,
    progress: Progress,
) -> None:
    """Train, and record each part of steps before the checkpoint that ends with it."""
    from ntkcli.engine.training import newest_checkpoint, train_adapter

    resumed = newest_checkpoint(folder / "checkpoints")
    done = 0 if resumed is None else int(resumed.name.rpartition("-")[2])
    progress.start(artefact.name, total=artefact.n, unit="steps", done=done)
    pending: list[Step] = []

    def on_step(step: Step) -> None:
        pending.append(step)
        part = step.number // artefact.part_rows
        if step.number + 1 == artefact.part_bounds(part)[1]:
            artefact.write_part(
                part,
                {
                    "loss": np.array([s.loss for s in pending], dtype=np.float32),
                    "learning_rate": np.array([s.learning_rate for s in pending]),
                    "tokens": np.array([s.tokens for s in pending], dtype=np.int64),
                },
            )
            pending.clear()

    train_adapter(loaded, rows, options=options, folder=folder, on_step=on_step, progress=progress)
    progress.stop()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the run's folder against a second process. The system drops the lock with the process: none goes stale."""
    atomic.make_folder(folder)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"Another process is training {folder.name}.", "Wait for it, or stop it.") from error
        yield


def _record(folder: Path, artefact: store.Artefact, identity: ModelIdentity) -> None:
    """Seal the adapter: the last file of a run, after all others are durable."""
    record = {
        "made_by": f"ntksel {__version__}",
        "model": {"reference": identity.reference, **identity.spec},
        "run": artefact.fingerprint,
        "spec": artefact.spec,
        "files": seal.digests(folder),
    }
    store.write_bytes(folder / BASE_RECORD, json.dumps(record, indent=2, sort_keys=True).encode() + b"\n")


def _result(artefact: store.Artefact, folder: Path) -> FinetuneResult:
    loss = artefact.read("loss")
    tenth = max(1, len(loss) // 10)
    return FinetuneResult(
        artefact=artefact.name,
        adapter=str(folder),
        rows=artefact.attrs["rows"],
        truncated=artefact.attrs["truncated"],
        skipped=artefact.attrs["skipped"],
        steps=artefact.n,
        first_loss=float(loss[:tenth].mean()),
        last_loss=float(loss[-tenth:].mean()),
        tokens=int(artefact.read("tokens").sum()),
        digest=artefact.digest(),
    )
