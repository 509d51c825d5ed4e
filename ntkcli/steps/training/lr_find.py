"""Find a learning rate: short trainings at several rates, judged by rows of the first set that are held out.

One base model in memory, adapters taken off between trials; a trial is a part of `sweeps/<name>`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import Encoded, Encoder
from ntkcli.errors import NtkselError
from ntkcli.progress import Progress, Silent
from ntkcli.steps.shared.disk_room import refuse_without_room
from ntkcli.steps.shared.environment import begin, model_environment
from ntkcli.steps.shared.model_settings import note_conversion
from ntkcli.steps.shared.release import frees_memory
from ntkcli.steps.shared.stores import require_spec
from ntkcli.steps.shared.token_counts import kept_tokens
from ntkcli.steps.training.lr_request import HELD_OUT, HELD_OUT_ROWS, RATES, TRIAL_STEPS, Sweep, prepare
from ntkcli.steps.training.lr_result import LrFindResult, result_of
from ntkcli.steps.training.one_base import OneBase, last_loss
from ntkcli.steps.training.request import TrainingRequest
from ntkcli.steps.training.rows import TrainingData, encode_training

if TYPE_CHECKING:
    from ntkcli.engine.training.train import TrainingOptions
    from ntkcli.engine.training.trainer import Step


@frees_memory
def find_rate(
    store_path: str | Path, *, lr_rates: Sequence[float] = RATES, lr_steps: int = TRIAL_STEPS,
    seeds: Sequence[int] = (0,), progress: Progress | None = None, **given: Any,
) -> LrFindResult:  # fmt: skip
    """Write `sweeps/<name>`: for every rate and seed the loss on the rows held out, after at most `lr_steps` steps.

    Held out is a share of the first set of `train` (the domain, by default 0.2 and at most 200 rows); the rest of it
    and the other sets are trained on. `given` are the arguments of
    `ntkcli.steps.training.finetune.finetune`; a trial ends with its run, if that is shorter, and follows the schedule
    over its own steps. A trial that diverges is recorded as such. Adapters are not kept.

    Raises:
        UsageError, DataError: an option, a file or a row can't be used.
        store.SpecDiffersError: a sweep of this name was made with other settings.
    """
    progress = progress or Silent()
    request = TrainingRequest.of(**given)
    sweep = prepare(store_path, request, given, rates=lr_rates, lr_steps=lr_steps, seeds=seeds)
    known = sweep.stored.find(f"sweeps/{sweep.name}")
    if known is not None:
        require_spec(known, sweep.spec)
        if known.complete:
            progress.note(f"{known.name} is finished already: {known.n - 1} trials")
            return result_of(known, sweep)
    note_conversion(sweep.identity, progress)
    return result_of(_run(sweep, progress), sweep)


def _run(sweep: Sweep, progress: Progress) -> store.Artefact:
    """All trials that are not done yet, one after the other."""
    from ntkcli.engine.evaluation.evaluator import Evaluator
    from ntkcli.engine.models.loading import load_model
    from ntkcli.engine.training.packs import require_packing

    use = sweep.asked.use
    encoder, data = _encode(sweep, progress)
    planned = _planned_steps(sweep, data)
    loaded = load_model(sweep.identity, dtype=sweep.spec["dtype"], device=use.device)
    if sweep.settings.pack:
        require_packing(loaded)
    checkpointed = sweep.asked.gradient_checkpointing
    picked = sweep.settings.pick_batch_tokens(loaded, init=sweep.init, checkpointed=checkpointed)
    artefact = _create(sweep, data, planned, {"batch_tokens": use.batch_tokens or picked})
    budget = use.batch_tokens or artefact.plan["batch_tokens"]
    refuse_without_room(artefact, artefact.pending(), instead="")
    options = _options(sweep, planned, budget)
    base = OneBase(Evaluator(loaded, encoder, batch_tokens=budget), sweep.identity, sweep.stored.tmp_path, progress)
    begin(artefact, model_environment(sweep.identity, loaded), progress)
    progress.start(artefact.name, total=artefact.n, unit="trials", done=artefact.rows_done())
    try:
        while pending := artefact.pending():
            rate, seed = sweep.trials[pending[0]]
            values = _trial(base, data, replace(options, learning_rate=rate, seed=max(0, seed)), progress)
            artefact.write_part(pending[0], {**values, "seed": np.array([seed], dtype=np.int64)})
            progress.advance(1, note=f"--lr {rate:g}, held out {values['nats'].mean():.3f}")
    finally:
        progress.stop()
    return artefact


def _trial(base: OneBase, data: TrainingData, options: TrainingOptions, progress: Progress) -> dict[str, NDArray[Any]]:
    """A row of the arrays: the rate's losses, NaN where it diverged, or the base model's for the rate 0."""
    from ntkcli.engine.training.trainer import TrainingRows

    rate, held_out = options.learning_rate, [data.rows[i] for i in data.held_out]
    if not rate:
        nats = base.bare(lambda: _nats(base, held_out))
        if not np.isfinite(nats).all():
            raise NtkselError(
                "The likelihoods of the rows held out are not finite before training.", "Give --dtype float32."
            )
        return _arrays(rate, nats, steps=0, tokens=0, last=math.nan)

    def measure(_: Path, steps: Sequence[Step]) -> tuple[NDArray[np.float64], float]:
        return _nats(base, held_out), last_loss(steps)

    rows = TrainingRows([data.rows[i] for i in data.train], [data.names[i] for i in data.train], packs=data.packs)
    trained = base.trained(rows, options, measure)
    nats, last = trained.found or (np.full(len(held_out), np.nan), math.nan)
    if not np.isfinite(nats).all():
        nats, last = np.full(len(held_out), np.nan), math.nan
        progress.note(f"--lr {rate:g} diverged. {trained.why}")
    return _arrays(rate, nats, steps=len(trained.steps), tokens=trained.tokens, last=last)


def _options(sweep: Sweep, planned: int, batch_tokens: int) -> TrainingOptions:
    settings = sweep.settings
    if planned > sweep.spec["lr_steps"]:
        settings = replace(settings, epochs=None, max_tokens=None, max_steps=sweep.spec["lr_steps"])
    return settings.options(
        settings.spec(sweep.init),
        init=sweep.init,
        checkpoint_steps=1 << 30,  # a trial is done again whole
        batch_tokens=batch_tokens,
        gradient_checkpointing=sweep.asked.gradient_checkpointing,
        keep_optimizer=False,
    )


def _encode(sweep: Sweep, progress: Progress) -> tuple[Encoder, TrainingData]:
    from ntkcli.engine.models.limits import refuse_too_long
    from ntkcli.engine.models.loading import load_tokenizer

    encoder = sweep.asked.use.encoder(load_tokenizer(sweep.identity))
    if encoder.form:
        progress.note(encoder.form)
    share = sweep.spec["hold_out"]
    if share is None:
        rows = max(1, len(sweep.sets[0].drawn(sweep.seeds[0])[1]))
        share = min(HELD_OUT, HELD_OUT_ROWS / rows)
    data = encode_training(
        sweep.sets,
        encoder,
        seed=sweep.seeds[0],
        hold_out=share,
        on_error=sweep.asked.reading.on_error,
        hold_out_of=0,
        pack=sweep.settings.pack,
        tokens_of=lambda rows: kept_tokens(sweep.stored, rows.dataset, sweep.identity, encoder),
    )
    longest = max(range(len(data.rows)), key=lambda i: len(data.rows[i]))
    refuse_too_long(sweep.identity, len(data.rows[longest]), data.names[longest])
    return encoder, data


def _planned_steps(sweep: Sweep, data: TrainingData) -> int:
    from ntkcli.engine.training.step_plan import plan_steps

    settings = sweep.settings
    steps = plan_steps(
        data.lengths(),
        batch_size=settings.batch_size,
        seed=settings.seed,
        epochs=settings.spec(sweep.init)["epochs"],
        max_tokens=settings.max_tokens,
        max_steps=settings.max_steps,
    )
    return len(steps)


def _create(sweep: Sweep, data: TrainingData, planned: int, plan: dict[str, Any]) -> store.Artefact:
    supervised = [int(data.rows[i].supervised.sum()) for i in data.held_out]
    counts = {key: value for key, value in data.counts().items() if key != "set_rows"}
    return sweep.stored.create(
        f"sweeps/{sweep.name}",
        kind=store.Kind.SWEEP,
        spec=sweep.spec,
        parents=sweep.parents,
        n=len(sweep.trials),
        part_rows=1,
        arrays={
            "learning_rate": store.ArraySpec("float64"),
            "seed": store.ArraySpec("int64"),
            "nats": store.ArraySpec("float32", (len(supervised),)),
            "steps": store.ArraySpec("int32"),
            "tokens": store.ArraySpec("int64"),
            "last_loss": store.ArraySpec("float32"),
        },
        plan=plan,
        attrs={
            **counts,
            "held_out_tokens": supervised,
            "planned_steps": planned,
            "train": [one.rows.label for one in sweep.sets],
            "inputs": [one.rows.file.reference for one in sweep.sets],
            "model": sweep.identity.reference,
        },
    )


def _arrays(rate: float, nats: NDArray[np.float64], *, steps: int, tokens: int, last: float) -> dict[str, NDArray[Any]]:
    return {
        "learning_rate": np.array([rate], dtype=np.float64),
        "nats": nats.astype(np.float32)[None],
        "steps": np.array([steps], dtype=np.int32),
        "tokens": np.array([tokens], dtype=np.int64),
        "last_loss": np.array([last], dtype=np.float32),
    }


def _nats(base: OneBase, rows: Sequence[Encoded]) -> NDArray[np.float64]:
    """Mean nats of each row's supervised tokens."""
    sums = base.evaluator.logliks([[row] for row in rows])
    return np.array([-float(one[0]) / int(row.supervised.sum()) for one, row in zip(sums, rows, strict=True)])
