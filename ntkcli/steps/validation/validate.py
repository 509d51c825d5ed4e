"""Validate scores by retraining: plan the runs, train and measure one after the other, report what they show."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import Encoded, Encoder, Row
from ntkcli.progress import Progress, Silent
from ntkcli.steps.evaluation.scorers import refuse_long_items, refuse_unusable
from ntkcli.steps.shared.disk_room import refuse_without_room
from ntkcli.steps.shared.model_settings import note_conversion
from ntkcli.steps.shared.non_finite import name_of
from ntkcli.steps.shared.token_counts import count_tokens, counts_of
from ntkcli.steps.validation import inputs
from ntkcli.steps.validation.bench import Bench, Keep, Measured, Trainer
from ntkcli.steps.validation.keep import keep_run
from ntkcli.steps.validation.measures import Measures
from ntkcli.steps.validation.plan import (
    BASE,
    BIN,
    DESIGNS,
    Run,
    make_runs,
)  # fmt: skip
from ntkcli.steps.validation.request import Request, ValidationSettings, prepare
from ntkcli.steps.validation.result import Validation, summarise


class MakeTrainer(Protocol):
    """Loads what trains."""

    def __call__(self, request: Request, plan: Mapping[str, Any], /) -> Trainer:
        """The trainer of these runs."""


def validate(
    store_path: str | Path, *, gradient_checkpointing: bool = False, keep_runs: bool = False,
    progress: Progress | None = None, trainer: MakeTrainer | None = None, **given: Any,
) -> Validation:  # fmt: skip
    """Write `validations/<name>`, a part for each training run, and report what its runs show.

    Each run trains an adapter on the domain's rows, `domain_repeat` times each, together with `rows` rows of the
    pool: from a bin of a score's ranks (`bins`), the same number and like tokens from each; at random; from an
    `oracle`; or random subsets shared by all scores. Then the loss of each test item is measured. `given` are the
    fields of `ValidationSettings` and its parts; the training options mean what they do in
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
    refuse_unusable(request.items, encoder)
    refuse_long_items(request.items, encoder, request.identity, 0)
    inputs.refuse_overlap(request.items, list(needed.values()), what=request.scored.dataset.name)
    domain = inputs.encode_all(request.domain_rows, encoder, what="--domain")
    by_row = dict(
        zip(needed, inputs.encode_all(list(needed.values()), encoder, what=request.scored.dataset.name), strict=True)
    )
    _refuse_long(request, [*domain, *by_row.values()])
    note_conversion(request.identity, progress)
    make = trainer or _Loading(gradient_checkpointing, encoder, progress)
    train = make(request, known.plan if known is not None else {})
    plan = make.plan if isinstance(make, _Loading) else {}
    artefact = _create(request, len(runs), plan)
    refuse_without_room(artefact, artefact.pending(), instead="")
    progress.start(artefact.name, total=artefact.n, unit="runs", done=artefact.rows_done())
    gc.freeze()  # what stands by now stays: every trainer collects garbage, which else walks over all of it
    try:
        while pending := artefact.pending():
            run = runs[pending[0]]
            keep = _keeper(request, artefact, pending[0], run) if keep_runs else None
            rows, names = _rows_of(request, run, domain, by_row, needed)
            found = train(rows, names, seed=run.seed, keep=keep)
            artefact.write_part(pending[0], _arrays_of(request, run, found))
            progress.advance(1, note=f"loss {found.nats.mean():.3f}")
    finally:
        gc.unfreeze()
        progress.stop()
    return summarise(measures_of(artefact, request))


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
    request_names = {"scores": list(request.scored.names), "tasks": [task.name for task in request.items.tasks]}
    return request.stored.create(
        f"validations/{request.name}",
        kind=store.Kind.VALIDATION,
        spec=request.spec,
        parents=request.parents,
        n=n,
        part_rows=1,
        arrays={
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
        attrs={"designs": list(DESIGNS), "item_task": request.items.task.tolist(), **request_names},
    )


def _rows_of(
    request: Request, run: Run, domain: Sequence[Encoded], by_row: Mapping[int, Encoded], needed: Mapping[int, Row]
) -> tuple[list[Encoded], list[str]]:
    """What a run is trained on, and how messages name it: the domain's rows, repeated, and its own."""
    if run.design == BASE:
        return [], []
    copies = [i for i in range(len(domain)) for _ in range(request.domain_repeat)]  # in the order of `finetune`'s
    own = run.rows.tolist()
    rows = [*(domain[i] for i in copies), *(by_row[row] for row in own)]
    named = [*(request.domain_rows[i] for i in copies), *(needed[row] for row in own)]
    return rows, [name_of(row) for row in named]


def _arrays_of(request: Request, run: Run, found: Measured) -> dict[str, NDArray[Any]]:
    rows = np.full(request.design.n, -1, dtype=np.int64)
    rows[: len(run.rows)] = run.rows
    sums = [float(one.read("score").astype(np.float64)[run.rows].sum()) for one in request.scored.artefacts]
    return {
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
    done = np.flatnonzero(artefact.done())
    read = {name: artefact.take(name, done) for name in artefact.arrays if name not in ("rows", "correct")}
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
    )


def _keeper(request: Request, artefact: store.Artefact, number: int, run: Run) -> Keep | None:
    if run.design == BASE:
        return None
    label = f"{run.design}.s{run.seed}"
    if run.design == BIN:
        label = f"{request.scored.names[run.score]}.bin{run.bin + 1}.s{run.seed}"
    elif run.design not in ("domain", "random", "oracle"):
        label = f"{run.design}{number}"
    spec = {**{key: request.spec[key] for key in ("model", "encoder", "dtype")}, **request.settings.spec(request.init)}
    spec |= {"seed": run.seed, "train": [{"validation": artefact.fingerprint, "run": number}]}

    def keep(folder: Path, found: Measured) -> None:
        keep_run(
            request.stored, f"{request.name}.{label}", folder, found, spec=spec, model=request.identity,
            rows=len(request.domain_rows) * request.domain_repeat + len(run.rows),
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
        from ntkcli.engine.training.train import pick_batch_tokens

        use = request.asked.use
        loaded = load_model(request.identity, dtype=request.spec["dtype"], device=use.device)
        budget = use.batch_tokens or plan.get("batch_tokens") or pick_batch_tokens(loaded)
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
