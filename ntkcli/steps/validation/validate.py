"""Validate scores by retraining: plan the runs, train and measure one after the other, report what they show."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import Encoded, Encoder, Row
from ntkcli.progress import Progress, Silent
from ntkcli.steps.evaluation.item_tokens import ItemTokens, refuse_long_items, refuse_unusable
from ntkcli.steps.shared.disk_room import refuse_without_room
from ntkcli.steps.shared.kept_tokens import KeptTokens
from ntkcli.steps.shared.model_settings import note_conversion
from ntkcli.steps.shared.non_finite import name_of
from ntkcli.steps.shared.release import frees_memory
from ntkcli.steps.shared.sharing import end_share, mine
from ntkcli.steps.shared.token_counts import count_tokens, counts_of, kept_tokens
from ntkcli.steps.training.rows import content_of, held_out
from ntkcli.steps.validation import inputs
from ntkcli.steps.validation.bench import Bench, Judge, Keep, Measured, Trainer
from ntkcli.steps.validation.keep import keep_run
from ntkcli.steps.validation.measures import Measures, joined
from ntkcli.steps.validation.plan import (
    BASE,
    BIN,
    DESIGNS,
    Run,
    make_runs,
)  # fmt: skip
from ntkcli.steps.validation.request import Request, ValidationSettings, prepare, training_spec
from ntkcli.steps.validation.result import Validation, summarise


class MakeTrainer(Protocol):
    """Loads what trains."""

    def __call__(self, request: Request, plan: Mapping[str, Any], /) -> Trainer:
        """The trainer of these runs."""


@frees_memory
def validate(
    store_path: str | Path, *, gradient_checkpointing: bool = False, keep_runs: bool = False,
    progress: Progress | None = None, trainer: MakeTrainer | None = None, **given: Any,
) -> Validation:  # fmt: skip
    """Write `validations/<name>`, a part for each training run, and report what its runs show.

    Each run trains an adapter on the domain's rows, `domain_repeat` times each, together with `rows` rows of the
    pool: from a bin of a score's ranks (`bins`), the same number and like tokens from each; at random; from an
    `oracle`; or random subsets shared by all scores. Then the loss of each test item is measured. With `folds` the
    domain's own rows are the items: each run trains once for each fold, on the rows out of it. `given` are the fields
    of `ValidationSettings` and its parts; the training options mean what they do in
    `ntkcli.steps.training.finetune.finetune`. `keep_runs` leaves each run's adapter in the store as
    `runs/<name>.<what>.s<seed>`. A training that diverges is recorded as such. `trainer` makes what trains (tests
    give a made-up world).

    Raises:
        UsageError, DataError: an option, a file or a row can't be used; test items are among the rows to train on.
        SpecError: scores are of different pools. store.SpecDiffersError: a validation of this name has other settings.
    """
    progress = progress or Silent()
    request = prepare(store_path, ValidationSettings.of(**given))
    known = request.known
    if known is not None and known.complete:
        progress.note(f"{known.name} is finished already: {known.n} runs")
        if keep_runs:
            progress.note(
                "--keep-runs keeps what is trained from now on: these runs were not kept, or are there already"
            )
        return summarise(measures_of(known, request))
    runs, needed = _plan(request, progress)
    encoder = _encoder(request)
    items = ItemTokens(request.items, encoder)
    refuse_unusable(items)
    refuse_long_items(items, request.identity, 0)
    inputs.refuse_overlap(request.items, list(needed.values()), what=request.scored.dataset.name)
    pool = request.scored.dataset
    domain = inputs.encode_all(request.domain_rows, KeptTokens(None, encoder), what="--domain")
    tokens = kept_tokens(request.stored, pool, request.identity, encoder)
    by_row = dict(zip(needed, inputs.encode_all(list(needed.values()), tokens, what=pool.name), strict=True))
    _refuse_long(request, [*domain, *by_row.values()])
    note_conversion(request.identity, progress)
    make = trainer or _Loading(gradient_checkpointing, encoder, progress)
    train = make(request, known.plan if known is not None else {})
    plan = make.plan if isinstance(make, _Loading) else {}
    artefact = _create(request, len(runs) * request.n_folds, plan)
    refuse_without_room(artefact, artefact.pending(), instead="")
    examples = _Examples(domain, by_row, needed)
    _train_all(request, artefact, runs, examples, train, keep_runs=keep_runs, progress=progress)
    end_share()
    return summarise(measures_of(artefact, request))


@dataclass(frozen=True, slots=True)
class _Examples:
    """What is trained on, encoded: the domain's rows, and the pool's rows that runs need, by index."""

    domain: Sequence[Encoded]
    by_row: Mapping[int, Encoded]
    needed: Mapping[int, Row]


def _train_all(
    request: Request, artefact: store.Artefact, runs: Sequence[Run], examples: _Examples, train: Trainer, *,
    keep_runs: bool, progress: Progress,
) -> None:  # fmt: skip
    """All trainings that are not done yet, one after the other."""
    progress.start(artefact.name, total=artefact.n, unit="runs", done=artefact.rows_done())
    gc.freeze()  # what stands by now stays: every trainer collects garbage, which else walks over all of it
    try:
        while pending := mine(artefact, artefact.pending()):
            number, fold = divmod(pending[0], request.n_folds)
            run = runs[number]
            rows, names, judge = _rows_of(request, run, fold, examples)
            keep = _keeper(request, artefact, number, run, fold, len(rows), len(judge)) if keep_runs else None
            only = None if request.folds is None else np.flatnonzero(request.folds == fold)
            found = train(rows, names, seed=run.seed, keep=keep, only=only, held_out=judge)
            artefact.write_part(pending[0], _arrays_of(request, run, fold, found))
            loss = found.nats if only is None else found.nats[only]
            progress.advance(1, note=f"loss {loss.mean():.3f}")
    finally:
        gc.unfreeze()
        progress.stop()


def _plan(request: Request, progress: Progress) -> tuple[list[Run], dict[int, Row]]:
    """All runs, and the pool's rows that they need by index."""
    scored, use = request.scored, request.asked.use
    counted = count_tokens(
        request.stored, scored.dataset, scored.file, request.identity, **use.counting(), progress=progress
    )
    counts = counts_of(counted, None)
    tokens = np.minimum(counts.length.astype(np.int64), use.max_length)
    pool = inputs.pool_of(scored, tokens, counts.good(), request.oracle)
    runs = make_runs(pool, request.design, scored.names)
    wanted = np.unique(np.concatenate([run.rows for run in runs]))
    return runs, {row.index: row for row in inputs.pool_rows(scored, wanted)}


def _encoder(request: Request) -> Encoder:
    from ntkcli.engine.models.loading import load_tokenizer

    return request.asked.use.encoder(load_tokenizer(request.identity))


def _refuse_long(request: Request, encoded: Sequence[Encoded]) -> None:
    from ntkcli.engine.models.limits import refuse_too_long

    refuse_too_long(request.identity, max(map(len, encoded)), "The longest row")


def _create(request: Request, n: int, plan: Mapping[str, Any]) -> store.Artefact:
    asked = request.asked
    named = {
        "scores": list(request.scored.names),
        "tasks": [task.name for task in request.items.tasks],
        "model": request.identity.reference,
        "domain": asked.domain,
        "files": list(map(str, asked.task)),
        "oracle": asked.oracle,
    }
    return request.stored.create(
        f"validations/{request.name}",
        kind=store.Kind.VALIDATION,
        spec=request.spec,
        parents=request.parents,
        n=n,
        part_rows=1,
        arrays={
            **({} if request.folds is None else {"fold": store.ArraySpec("int32")}),
            "rows": store.ArraySpec("int64", (request.design.n,)),
            "design": store.ArraySpec("int32"),
            "score": store.ArraySpec("int32"),
            "bin": store.ArraySpec("int32"),
            "seed": store.ArraySpec("int64"),
            "sums": store.ArraySpec("float64", (len(request.scored.names),)),
            "nats": store.ArraySpec("float32", (len(request.items.rows),)),
            "correct": store.ArraySpec("uint8", (len(request.items.rows),)),
            "tokens": store.ArraySpec("int64"),
            "last_loss": store.ArraySpec("float32"),
            "diverged": store.ArraySpec("uint8"),
        },
        plan=plan,
        attrs={
            "designs": list(DESIGNS),
            "item_task": request.items.task.tolist(),
            **({} if request.folds is None else {"item_fold": request.folds.tolist()}),
            **named,
        },
    )


def _rows_of(request: Request, run: Run, fold: int, examples: _Examples) -> tuple[list[Encoded], list[str], Judge]:
    """What a run is trained on, and how messages name it: the domain's rows out of the fold, repeated, and its own.

    And the rows to judge by: a share of the domain's, the same for every run of the fold.
    """
    domain, by_row, needed = examples.domain, examples.by_row, examples.needed
    if run.design == BASE:
        return [], [], ()
    trained = _trained(request, fold)
    share = request.settings.hold_out
    contents = [content_of(domain[i]) for i in trained]
    judged = [trained[i] for i in held_out(contents, share, 0, "--domain").tolist()]
    copies = [i for i in trained for _ in range(request.domain_repeat)]  # in the order of `finetune`'s
    own = run.rows.tolist()
    rows = [*(domain[i] for i in copies), *(by_row[row] for row in own)]
    named = [name_of(row) for row in (*(request.domain_rows[i] for i in copies), *(needed[row] for row in own))]
    out = {content_of(domain[i]) for i in judged}
    kept = [i for i in range(len(rows)) if not out or content_of(rows[i]) not in out]
    judge = [(domain[i], name_of(request.domain_rows[i])) for i in judged]
    return [rows[i] for i in kept], [named[i] for i in kept], judge


def _trained(request: Request, fold: int) -> list[int]:
    """Positions of the domain's rows that are trained on while a fold is tested."""
    found = range(len(request.domain_rows)) if request.folds is None else np.flatnonzero(request.folds != fold)
    return list(map(int, found))


def _arrays_of(request: Request, run: Run, fold: int, found: Measured) -> dict[str, NDArray[Any]]:
    rows = np.full(request.design.n, -1, dtype=np.int64)
    rows[: len(run.rows)] = run.rows
    sums = [float(one.read("score").astype(np.float64)[run.rows].sum()) for one in request.scored.artefacts]
    return {
        **({} if request.folds is None else {"fold": np.array([fold], dtype=np.int32)}),
        "rows": rows[None],
        "design": np.array([DESIGNS.index(run.design)], dtype=np.int32),
        "score": np.array([run.score], dtype=np.int32),
        "bin": np.array([run.bin], dtype=np.int32),
        "seed": np.array([run.seed], dtype=np.int64),
        "sums": np.array([sums], dtype=np.float64),
        "nats": found.nats.astype(np.float32)[None],
        "correct": found.correct.astype(np.uint8)[None],
        "tokens": np.array([found.tokens], dtype=np.int64),
        "last_loss": np.array([found.last_loss], dtype=np.float32),
        "diverged": np.array([found.diverged], dtype=np.uint8),
    }


def measures_of(artefact: store.Artefact, request: Request) -> Measures:
    """The finished runs of a validation, all or those that are done so far, as its request names scores and tasks."""
    done = artefact.done().reshape(-1, request.n_folds).all(axis=1).repeat(request.n_folds)
    names = [name for name in artefact.arrays if name not in ("rows", "correct", "fold")]
    read = joined({name: artefact.take(name, np.flatnonzero(done)) for name in names}, request.folds)
    whole = {name: read[name].astype(np.int64) for name in ("design", "score", "bin", "seed", "tokens")}
    return Measures(
        **whole,
        last_loss=read["last_loss"].astype(np.float64),
        diverged=read["diverged"] > 0,
        sums=read["sums"],
        nats=read["nats"].astype(np.float64),
        task=request.items.task.astype(np.int64),
        tasks=tuple(task.name for task in request.items.tasks),
        shares=tuple(request.shares),
        names=request.scored.names,
        edges=request.design.edges,
        folds=request.folds,
        knowing=() if request.folds is None else inputs.made_from(request.stored, request.scored, request.domain.spec),
    )


def _keeper(
    request: Request, artefact: store.Artefact, number: int, run: Run, fold: int, rows: int, judged: int
) -> Keep | None:
    if run.design == BASE:
        return None
    of_fold = "" if request.folds is None else f".fold{fold + 1}"
    label = f"{run.design}{of_fold}.s{run.seed}"
    if run.design == BIN:
        label = f"{request.scored.names[run.score]}.bin{run.bin + 1}{of_fold}.s{run.seed}"
    elif run.design not in ("domain", "random", "oracle"):
        label = f"{run.design}{number}{of_fold}"
    spec = {
        **{key: request.spec[key] for key in ("model", "encoder", "dtype")},
        **training_spec(request.settings, request.init),
    }
    spec |= {"seed": run.seed, "train": [{"validation": artefact.fingerprint, "run": number * request.n_folds + fold}]}

    def keep(folder: Path, found: Measured) -> None:
        keep_run(
            request.stored, f"{request.name}.{label}", folder, found, spec=spec, model=request.identity,
            rows=rows, held_out=judged,
        )  # fmt: skip

    return keep


class _Loading:
    """Makes the trainer that trains: loads the base model, once."""

    def __init__(self, gradient_checkpointing: bool, encoder: Encoder, progress: Progress) -> None:
        self._checkpointing, self._encoder, self._progress = gradient_checkpointing, encoder, progress
        self.plan: dict[str, Any] = {}

    def __call__(self, request: Request, plan: Mapping[str, Any], /) -> Trainer:
        """The bench, with the base model."""
        from ntkcli.engine.evaluation.evaluator import Evaluator
        from ntkcli.engine.models.loading import load_model

        use = request.asked.use
        loaded = load_model(request.identity, dtype=request.spec["dtype"], device=use.device)
        picked = request.settings.pick_batch_tokens(loaded, init=request.init, checkpointed=self._checkpointing)
        budget = use.batch_tokens or plan.get("batch_tokens") or picked
        self.plan = {"batch_tokens": budget}
        options = request.settings.options(
            {**request.spec, "seed": 0},
            init=request.init,
            checkpoint_steps=1 << 30,  # a run is done again whole
            batch_tokens=budget,
            gradient_checkpointing=self._checkpointing,
            keep_optimizer=False,
        )
        evaluator = Evaluator(loaded, self._encoder, batch_tokens=budget)
        return Bench(evaluator, request.identity, request.items, options, request.stored.tmp_path, self._progress)
