"""Fine-tune a LoRA adapter on rows of the store or of files, resumable, with a log of its steps."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli.choices import Dtype, LossPer, OnError, Schedule, TextAs
from ntkcli.data import stdin
from ntkcli.errors import UsageError
from ntkcli.group import ALONE, Group
from ntkcli.progress import Progress, Silent
from ntkcli.seeds import check_seeds
from ntkcli.steps.shared import seal
from ntkcli.steps.shared.model_settings import note_conversion, run_parent
from ntkcli.steps.shared.release import frees_memory
from ntkcli.steps.shared.stores import open_store, require_spec
from ntkcli.steps.training.model_card import command_words
from ntkcli.steps.training.push_adapter import push_adapter
from ntkcli.steps.training.request import TrainingRequest
from ntkcli.steps.training.rows import parse_train
from ntkcli.steps.training.run import TrainingRun
from ntkcli.steps.training.settings import resolve_init


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """The artefact and the adapter's folder; rows trained on, steps taken, mean loss of the first and last tenth.

    `held_out_loss` is the lowest, after `best_step` steps, whose adapter is kept; None where no rows are held out.
    `documents`: rows of files, where some raw texts were cut into several rows to train on; `sequences`: what rows were
    packed into; None where this is not so.
    """

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
    planned_steps: int
    held_out: int
    held_out_loss: float | None
    best_step: int | None
    documents: int | None = None
    sequences: int | None = None
    hub: str | None = None


@dataclass(frozen=True, slots=True)
class SeedsResult:
    """One run for each seed, in the order given."""

    runs: tuple[FinetuneResult, ...]


def finetune(
    store_path: str | Path, *, model: str, train: Sequence[str], then: Sequence[str] = (), name: str,
    epochs: int | None = None, max_tokens: int | None = None, match_tokens: str | None = None,
    max_steps: int | None = None, match_steps: str | None = None, lr: float | None = None,
    schedule: Schedule = Schedule.COSINE, warmup: float = 0.03, rank: int | None = None, alpha: float | None = None,
    target_modules: str | None = None, init_adapter: str | None = None, batch_size: int = 16,
    batch_tokens: int | None = None, gradient_checkpointing: bool = False, max_length: int = 1024, seed: int = 0,
    hold_out: float = 0.0, hold_out_of: str | None = None, patience: int | None = None,
    loss_per: LossPer = LossPer.TOKEN, average_weights: bool = False, pack: bool = False, dtype: Dtype = Dtype.AUTO,
    device: str = "auto", checkpoint_steps: int | None = None, keep_optimizer: bool = False,
    keep_checkpoints: bool = False, on_error: OnError = OnError.FAIL, columns: Mapping[str, str] | None = None,
    split: str | None = None, data: Sequence[str] = (), thinking: bool | None = None, text_as: TextAs = TextAs.CHAT,
    group: str | None = None, trust_remote_code: bool = False, report_to: Sequence[str] = (),
    push_to_hub: str | None = None, public: bool = False, processes: Group = ALONE, progress: Progress | None = None,
) -> FinetuneResult:  # fmt: skip
    """Train `adapters/<name>` on the rows of all `train` references together; the log of its steps is `runs/<name>`.

    A reference is a selection of the store, a data set of it, or a data file; `REF=N` weights it
    (`ntkcli.steps.training.rows`). Defaults: 3 epochs (arXiv 2511.07380), rank 16, alpha 2·rank, all linear layers, the
    warm-up of LESS, and a learning rate by the model's width (`ntkcli.steps.training.settings.usual_rate`). The other
    options: `ntkcli.engine.training.train.TrainingOptions`; of files: `ntkcli.data.DataFile`. `data` says where files
    of data sets are now, if they have moved. `match_tokens` names a run of the store: as many tokens as it was trained
    on, `match_steps` one: as many steps as it took. `then`: more references, trained on for as many epochs after the
    rows of `train`, under the one schedule. `hold_out_of` is one of `train`: rows of it alone are held out, the same
    ones for every seed and whatever the other sets are. `text_as`: `ntkcli.data.Encoder`; raw texts longer than
    `max_length` are trained on in pieces. `pack`: rows are packed into sequences of up to `max_length` tokens, in which
    they do not see each other; a step has `batch_size` sequences. `keep_optimizer` leaves Adam's moments beside the
    adapter, also of a run that is finished already; `keep_checkpoints` the adapter before the first step and at each
    checkpoint, in `adapters/<name>/steps`, for which a finished run is trained again. `group` is kept as an attribute,
    which runs that differ only in the seed share. `report_to`: services that each step is reported to, by transformers'
    names; off by default, and not in the spec. `push_to_hub`: put the adapter and its card into this repository of the
    Hub at the end: private, unless `public`. `processes`: those that train together, each computing its share of every
    step; the first one writes, and all have its result.

    Raises:
        UsageError, DataError: a reference, an option or a row can't be used.
        store.SpecDiffersError: a run of this name was made with other settings.
    """
    given = locals().copy()
    command = command_words("finetune", given, inspect.signature(finetune))
    del given["store_path"], given["progress"], given["processes"]
    return train_run(store_path, TrainingRequest.of(**given), command, progress or Silent(), processes)


@frees_memory
def train_run(
    store_path: str | Path, request: TrainingRequest, command: Sequence[str], progress: Progress,
    processes: Group = ALONE,
) -> FinetuneResult:  # fmt: skip
    """Train what the request asks for, or find it finished; `command` is what the model card shows."""
    store.check_name(request.name, "--name")
    request = request.settled(store_path)
    _refuse_processes(request, processes.count)
    identity = request.use.resolve()
    request = replace(request, settings=request.settings.for_model(identity))
    stored = open_store(store_path, create=True)
    init = resolve_init(request.init_adapter, request.settings, adapters=stored.path / "adapters", model=identity)
    first, second = request.resolve_sets(stored)
    known = stored.find(f"runs/{request.name}")
    spec = {
        **request.settings.spec(init),
        **({} if (position := request.set_held_out_of()) is None else {"hold_out_of": position}),
        "model": identity.spec,
        "encoder": request.use.encoder_spec(),
        "train": [one.spec for one in first],
        **({"then": [one.spec for one in second]} if second else {}),
        "dtype": request.use.settle_dtype(known),
    }
    folder = stored.adapter_path(request.name)

    def finished(artefact: store.Artefact) -> FinetuneResult:
        result = _result(artefact, folder)
        if request.push_to_hub is None:
            return result
        hub = push_adapter(stored, artefact, folder, request.push_to_hub, public=request.public)
        progress.note(f"pushed to {hub}")
        return replace(result, hub=hub)

    kept = not request.keep_optimizer or (folder / seal.OPTIMIZER).is_file()
    kept = kept and (not request.keep_checkpoints or known is None or _kept_checkpoints(known, folder))
    done = known is not None and known.spec == spec and is_finished(stored, known) and kept
    if processes.first_says(lambda: done) and known is not None:
        progress.note(f"{known.name} is finished already: {known.n} steps")
        return processes.first_says(lambda: finished(known))
    if known is not None:
        require_spec(known, spec)
    note_conversion(identity, progress)
    sets, stage = [*first, *second], len(first) if second else None
    run = TrainingRun(stored, request, identity, init, spec, sets, folder, command, progress, stage, processes)
    run.train(
        parents=run_parent(stored, request.init_adapter),
        attrs={
            "train": [*request.train, *request.then],
            "inputs": [each.rows.file.reference for each in sets],
            "model": identity.reference,
            **({"group": request.group} if request.group else {}),
        },
    )
    return processes.first_says(lambda: finished(stored.get(f"runs/{request.name}")))


def _refuse_processes(request: TrainingRequest, count: int) -> None:
    """UsageError for what several processes can't train on together."""
    stdin.refuse_shared("--train", [parse_train(text)[0] for text in (*request.train, *request.then)], count)
    if request.settings.batch_size < count:
        raise UsageError(
            f"--batch-size {request.settings.batch_size}: it is the rows of a step, which {count} processes share.",
            f"Give {count} or more, or start fewer processes.",
        )


def finetune_seeds(
    store_path: str | Path, *, name: str, seeds: Sequence[int], progress: Progress | None = None, **given: Any
) -> SeedsResult:
    """One run for each seed, `<name>.s<seed>`, all else the same; `given` are the arguments of `finetune`.

    On the Hub each has a repository of its own, its name ending likewise.

    Raises:
        UsageError: no seed, one twice, or one below 0.
    """
    check_seeds(seeds)
    store.check_name(f"{name}.s{max(seeds)}", "--name")
    push_to_hub = given.pop("push_to_hub", None)
    runs = []
    for seed in seeds:
        pushed: dict[str, Any] = {} if push_to_hub is None else {"push_to_hub": f"{push_to_hub}.s{seed}"}
        own = f"{name}.s{seed}"
        runs.append(finetune(store_path, name=own, seed=seed, group=name, progress=progress, **given, **pushed))
    return SeedsResult(tuple(runs))


def is_finished(stored: store.Store, run: store.Artefact) -> bool:
    """Whether the run's steps are all recorded and its adapter is there, sealed for this very run."""
    return run.complete and seal.stands(stored.adapter_path(run.name.partition("/")[2]), run.fingerprint)


def _kept_checkpoints(run: store.Artefact, folder: Path) -> bool:
    """Whether the adapters of all of a finished run's checkpoints were kept."""
    from ntkcli.engine.training.checkpoints import kept_until

    taken = int((run.read("tokens") > 0).sum()) if run.complete else run.n
    return kept_until(folder, every=run.part_rows, n=taken) == taken


def _result(artefact: store.Artefact, folder: Path) -> FinetuneResult:
    rates, loss = artefact.read("learning_rate"), artefact.read("loss")
    loss = loss[~np.isnan(rates)]  # without the steps that an early stop left out
    tenth = max(1, len(loss) // 10)
    attrs = artefact.attrs
    best = None
    if "held_out_loss" in artefact.arrays:
        held_out = artefact.read("held_out_loss")
        best = int(np.nanargmin(held_out))
    return FinetuneResult(
        artefact=artefact.name,
        adapter=str(folder),
        rows=attrs["rows"],
        truncated=attrs["truncated"],
        skipped=attrs["skipped"],
        steps=len(loss),
        first_loss=float(loss[:tenth].mean()),
        last_loss=float(loss[-tenth:].mean()),
        tokens=int(artefact.read("tokens").sum()),
        digest=artefact.digest(),
        planned_steps=artefact.n,
        held_out=attrs.get("held_out", 0),
        held_out_loss=None if best is None else float(held_out[best]),
        best_step=None if best is None else best + 1,
        documents=attrs.get("documents"),
        sequences=attrs.get("sequences"),
    )
