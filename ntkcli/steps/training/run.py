"""One training of a run: load, train, record its steps, publish the adapter with its card, seal."""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

import store
from ntkcli import __version__
from ntkcli.errors import BusyError
from ntkcli.group import ALONE, Group
from ntkcli.identity import BASE_RECORD, ModelIdentity
from ntkcli.notes import note
from ntkcli.progress import Progress, Silent
from ntkcli.steps.shared import seal
from ntkcli.steps.shared.environment import ATTRIBUTE, begin, model_environment
from ntkcli.steps.shared.token_counts import kept_tokens
from ntkcli.steps.training.log import RunLog, arrays
from ntkcli.steps.training.model_card import CardSet, model_card
from ntkcli.steps.training.request import TrainingRequest
from ntkcli.steps.training.rows import TrainingData, TrainingSet, content_of, encode_training
from ntkcli.steps.training.settings import CHECKPOINTS, InitAdapter
from store import atomic
from store.locks import NO_LOCKS

if TYPE_CHECKING:
    from ntkcli.engine.training.train import TrainingOptions
    from ntkcli.engine.training.trainer import Step

CARD = "README.md"


def _ignored(step: Step) -> None:
    """The log is the first process's."""
    del step


@contextmanager
def alone(folder: Path, busy: str = "") -> Iterator[None]:
    """Hold the run's folder, or another, against a second process; `busy` says what the first one does there.

    The system drops the lock with the process: none goes stale. Where the folder's file system has no locks, against a
    second process of this machine.
    """
    atomic.make_folder(folder)
    busy = busy or f"is training {folder.name}"
    with ExitStack() as held:
        try:
            _lock(held.enter_context((folder / ".lock").open("w")), busy)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            note(
                f"the file system of {folder} has no locks ({error.strerror}): a second process that {busy} "
                "is noticed on this machine only, so don't start one on another."
            )
            _lock(held.enter_context(_local_lock(folder)), busy)
        yield


def _lock(file: IO[Any], busy: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BusyError(f"Another process {busy}.", "Wait for it, or stop it.") from error


def _local_lock(folder: Path) -> IO[Any]:
    """A file for the folder's lock among the machine's temporary files, of this user alone."""
    key = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
    path = Path(tempfile.gettempdir()) / f"ntksel-{os.getuid()}-{key}.lock"
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "w")


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """All that one training needs to begin or to resume. `first_stage`: how many of the sets come before the others."""

    stored: store.Store
    asked: TrainingRequest
    model: ModelIdentity
    init: InitAdapter | None
    spec: dict[str, Any]
    sets: Sequence[TrainingSet]
    folder: Path
    command: Sequence[str]
    progress: Progress
    first_stage: int | None = None
    group: Group = ALONE

    def train(self, *, parents: Mapping[str, str], attrs: dict[str, Any]) -> None:
        """Load, train, seal. Of a group the first process alone writes: the others only compute."""
        from ntkcli.engine.models.loading import load_model
        from ntkcli.engine.training.checkpoints import drop_older
        from ntkcli.engine.training.packs import require_packing

        asked, group = self.asked, self.group
        data = self._data()
        if group.count > 1:
            group.require_same(self._all_that_counts(data), "rows or settings")
        loaded = load_model(self.model, dtype=self.spec["dtype"], device=asked.use.device)
        if asked.settings.pack:
            require_packing(loaded)
        if not group.first:
            part_rows, batch_tokens = group.agree((0, 0))[0]
            self._compute(loaded, data, self._options(part_rows, batch_tokens), _ignored, Silent(), resume_at_most=0)
            return
        checkpointed = asked.gradient_checkpointing
        picked = asked.settings.pick_batch_tokens(loaded, init=self.init, checkpointed=checkpointed)
        plan = {"batch_tokens": asked.use.batch_tokens or picked}
        artefact = self._artefact(self._steps(data), data, plan, parents, attrs)
        batch_tokens = asked.use.batch_tokens or artefact.plan["batch_tokens"]  # another process may have been first
        with alone(self.folder):
            group.agree((artefact.part_rows, batch_tokens))
            self._train(artefact, loaded, data, self._options(artefact.part_rows, batch_tokens))
            self._write_card(artefact)
            self._seal(artefact)
            drop_older(self.folder / "checkpoints")

    def _data(self) -> TrainingData:
        """The rows as tokens."""
        from ntkcli.engine.models.limits import refuse_too_long
        from ntkcli.engine.models.loading import load_tokenizer

        asked = self.asked
        encoder = asked.use.encoder(load_tokenizer(self.model))
        if encoder.form:
            self.progress.note(encoder.form)
        data = encode_training(
            self.sets,
            encoder,
            seed=asked.settings.seed,
            hold_out=asked.settings.hold_out,
            on_error=asked.reading.on_error,
            first_stage=self.first_stage,
            pack=asked.settings.pack,
            hold_out_of=self.spec.get("hold_out_of"),
            tokens_of=lambda rows: kept_tokens(self.stored, rows.dataset, self.model, encoder),
        )
        longest = max(range(len(data.rows)), key=lambda i: len(data.rows[i]))
        refuse_too_long(self.model, len(data.rows[longest]), data.names[longest])
        return data

    def _all_that_counts(self, data: TrainingData) -> str:
        """A digest of the settings and of the rows that are trained on and held out, in their order."""
        digest = hashlib.blake2b(store.fingerprint(self.spec).encode())
        for i in [*data.train.tolist(), *data.held_out.tolist()]:
            digest.update(content_of(data.rows[i]))
        return digest.hexdigest()

    def _options(self, checkpoint_steps: int, batch_tokens: int) -> TrainingOptions:
        """What the engine takes; the first process reports."""
        from ntkcli.engine.training.reporting import Reporting

        asked = self.asked
        options = asked.settings.options(
            self.spec,
            init=self.init,
            checkpoint_steps=checkpoint_steps,
            batch_tokens=batch_tokens,
            gradient_checkpointing=asked.gradient_checkpointing,
            keep_optimizer=asked.keep_optimizer,
            keep_checkpoints=asked.keep_checkpoints,
        )
        if not self.group.first:
            return options
        reports = self.stored.path / "reports" / "tensorboard" / asked.name
        return replace(options, reporting=Reporting(tuple(asked.report_to), asked.name, reports))

    def _steps(self, data: TrainingData) -> int:
        """How many steps are planned."""
        from ntkcli.engine.training.step_plan import plan_stages

        settings = self.asked.settings
        planned = plan_stages(
            data.lengths(),
            data.stages,
            batch_size=settings.batch_size,
            seed=settings.seed,
            epochs=self.spec["epochs"],
            max_tokens=settings.max_tokens,
            max_steps=settings.max_steps,
        )
        return len(planned)

    def _artefact(
        self, n: int, data: TrainingData, plan: dict[str, Any], parents: Mapping[str, str], attrs: dict[str, Any]
    ) -> store.Artefact:
        made_from = {key: value for one in self.sets for key, value in one.rows.parents.items()}
        return self.stored.create(
            f"runs/{self.asked.name}",
            kind=store.Kind.RUN,
            spec=self.spec,
            parents={**made_from, **parents},
            n=n,
            part_rows=self.asked.settings.checkpoint_steps or max(1, math.ceil(n / CHECKPOINTS)),
            arrays=arrays(held_out=bool(self.asked.settings.hold_out)),
            plan=plan,
            attrs={**attrs, **data.counts()},
        )

    def _train(self, artefact: store.Artefact, loaded: Any, data: TrainingData, options: TrainingOptions) -> None:
        """Train, and record each part of steps before the checkpoint that ends with it."""
        from ntkcli.engine.training.checkpoints import kept_until, newest_checkpoint, steps_of

        pending = artefact.pending()
        at_most = artefact.part_bounds(pending[0])[0] if pending else artefact.n
        if options.keep_checkpoints and at_most:
            kept = max(0, kept_until(self.folder, every=artefact.part_rows, n=artefact.n))
            if kept < at_most:
                self.progress.note(f"{artefact.name} kept no adapters from step {kept} on: trains again from there")
            at_most = min(at_most, kept)
        resumed = newest_checkpoint(self.folder / "checkpoints", at_most=at_most)
        done = 0 if resumed is None else steps_of(resumed)
        begin(artefact, self._environment(artefact, loaded), self.progress, unfinished=resumed is not None)
        self.progress.start(artefact.name, total=artefact.n, unit="steps", done=done)
        log = RunLog(artefact)
        taken = self._compute(loaded, data, options, log.add, self.progress, resume_at_most=at_most)
        log.finish(taken)
        self.progress.stop()

    def _environment(self, artefact: store.Artefact, loaded: Any) -> dict[str, Any]:
        """Under what it is trained; how many processes there are where that is more than one, or was."""
        now = model_environment(self.model, loaded)
        before = any("processes" in each for each in artefact.attrs.get(ATTRIBUTE, []))
        return now | {"processes": self.group.count} if before or self.group.count > 1 else now

    def _compute(
        self, loaded: Any, data: TrainingData, options: TrainingOptions, on_step: Callable[[Step], None],
        progress: Progress, *, resume_at_most: int,
    ) -> int:  # fmt: skip
        """Train as the options say; returns the steps taken."""
        from ntkcli.engine.training.train import train_adapter
        from ntkcli.engine.training.trainer import TrainingRows

        rows = TrainingRows(
            [data.rows[i] for i in data.train],
            [data.names[i] for i in data.train],
            [data.rows[i] for i in data.held_out],
            [data.names[i] for i in data.held_out],
            data.stages,
            data.packs,
        )
        return train_adapter(
            loaded,
            rows,
            options=options,
            folder=self.folder,
            on_step=on_step,
            progress=progress,
            resume_at_most=resume_at_most,
            group=self.group,
        )

    def _write_card(self, artefact: store.Artefact) -> None:
        counts, spec = artefact.attrs["set_rows"], artefact.spec
        sets = [
            CardSet(one.rows.label, n, one.times, store.fingerprint(one.rows.spec))
            for one, n in zip(self.sets, counts, strict=True)
        ]
        taken = artefact.read("tokens") > 0
        loss = artefact.read("loss")[taken]
        metrics = {
            "steps": f"{len(loss)} of {artefact.n} planned",
            "tokens": f"{int(artefact.read('tokens').sum()):,}",
            "loss of the first step": f"{loss[0]:.4f}",
            "loss of the last step": f"{loss[-1]:.4f}",
        }
        if "held_out_loss" in artefact.arrays:
            held_out = artefact.read("held_out_loss")
            best = f"{np.nanmin(held_out):.4f} after step {int(np.nanargmin(held_out)) + 1}, whose weights these are"
            metrics[f"held-out loss ({artefact.attrs['held_out']} rows)"] = best
        card = model_card(
            self.asked.name,
            base_model=self.model.reference,
            spec=spec,
            sets=sets,
            metrics=metrics,
            command=self.command,
        )
        store.write_bytes(self.folder / CARD, card.encode())

    def _seal(self, artefact: store.Artefact) -> None:
        """Seal the adapter: the last file of a run, after all others are durable."""
        record = {
            "made_by": f"ntksel {__version__}",
            "model": {"reference": self.model.reference, **self.model.spec},
            "run": artefact.fingerprint,
            "spec": artefact.spec,
            "files": seal.digests(self.folder),
        }
        store.write_bytes(self.folder / BASE_RECORD, seal.sealing(record))
