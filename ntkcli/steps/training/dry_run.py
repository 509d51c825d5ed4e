"""What a fine-tuning would take, found out without loading weights: rows, steps, tokens, disk, memory, time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import BadRow, Encoder, RowError, stdin
from ntkcli.data.packing import pack_rows
from ntkcli.errors import DataError, UsageError
from ntkcli.identity import ModelIdentity
from ntkcli.paths import home
from ntkcli.steps.shared.cost import SAMPLE_ROWS, weight_size
from ntkcli.steps.shared.stores import is_store, open_store
from ntkcli.steps.training.lr_request import HELD_OUT, HELD_OUT_ROWS, RATES, TRIAL_STEPS, check_rates, trial_of
from ntkcli.steps.training.request import TrainingRequest
from ntkcli.steps.training.rows import TrainingSet, nearest, no_answers, parse_train
from ntkcli.steps.training.settings import CHECKPOINTS, InitAdapter, TrainingSettings, resolve_init

if TYPE_CHECKING:
    from ntkcli.engine.training.size import TrainingSize

OPERATIONS = 4.0
"""Operations a parameter and token of a step, at the speed of `ntkcli.engine.models.speed` (benchmarks/finetune.py)."""
FORWARD = 2.0
"""Of these, the forward's: what rows held out cost."""
STATE_BYTES = 16
"""A weight of the adapter with its gradient and two moments, float32."""


@dataclass(frozen=True, slots=True)
class FinetuneEstimate:
    """The cost of a fine-tuning; tokens are extrapolated from `sampled` rows, seconds from a product on this device.

    `rows` are an epoch's, repeats counted, without those held out; `memory_bytes` holds weights, optimiser and the
    activations of `batch_tokens`, not the logits; `disk_bytes` is the most that it takes.
    """

    rows: int
    held_out: int
    sampled: int
    unusable: int
    truncated: int
    steps: int
    tokens: int
    mean_tokens: float
    max_tokens: int
    adapter_parameters: int
    batch_tokens: int
    memory_bytes: int
    disk_bytes: int
    seconds: float


def estimate_finetune(store_path: str | Path, request: TrainingRequest) -> FinetuneEstimate:
    """What this training would take. Writes nothing and loads no weights."""
    return _estimate(store_path, request, _HeldOut(request.settings.hold_out, request.set_held_out_of()))


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """The share of rows held out and at most how many: of the set at `position`, or of all where that is None."""

    share: float
    position: int | None
    most: int | None = None

    def of(self, lengths: Sequence[_Lengths]) -> tuple[int, int]:
        """How many rows are held out, and how many are left to train on, repeats counted."""
        every = sum(one.rows for one in lengths)
        among = lengths if self.position is None else lengths[self.position : self.position + 1]
        unique = sum(one.rows / max(1, one.times) for one in among)
        held_out = max(1, nearest(self.share * unique)) if self.share else 0
        held_out = min(held_out, self.most or held_out)
        return held_out, max(1, round(every - held_out * sum(one.rows for one in among) / max(1, unique)))


def _estimate(store_path: str | Path, request: TrainingRequest, hold_out: _HeldOut) -> FinetuneEstimate:
    from ntkcli.engine.models.limits import refuse_too_long
    from ntkcli.engine.models.loading import load_tokenizer

    stored = open_store(store_path) if is_store(store_path) else None
    train = [*request.train, *request.then]
    if stdin.STDIN in [parse_train(text)[0] for text in train]:
        raise UsageError("--dry-run keeps nothing, so what standard input gives would be lost.", "Give a file.")
    request = request.settled(store_path)
    settings = request.settings
    identity = request.use.resolve()
    init = resolve_init(request.init_adapter, settings, adapters=Path(home(store_path)) / "adapters", model=identity)
    first, second = request.resolve_sets(stored)
    sets = [*first, *second]
    encoder = request.use.encoder(load_tokenizer(identity))
    lengths = [_sample(one, encoder, settings.seed, SAMPLE_ROWS // len(sets)) for one in sets]
    if not sum(one.rows for one in lengths):
        raise DataError(f"--train {', '.join(train)}: no row has an answer to learn.", no_answers(sets))
    refuse_too_long(identity, max(one.longest for one in lengths), "The longest row")
    return _cost(request, identity, init, lengths, hold_out)


def _cost(
    request: TrainingRequest,
    identity: ModelIdentity,
    init: InitAdapter | None,
    lengths: Sequence[_Lengths],
    hold_out: _HeldOut,
) -> FinetuneEstimate:
    """The estimate from the lengths of some rows of each set."""
    from ntkcli.engine.models.speed import operations_per_second
    from ntkcli.engine.training.checkpoints import copies_on_disk
    from ntkcli.engine.training.size import training_size

    settings, use = request.settings, request.use
    spec = settings.spec(init)
    size = training_size(
        identity,
        rank=spec["rank"],
        target_modules=spec["target_modules"],
        dtype=use.dtype,
        device=use.device,
        init=None if init is None else init.identity,
        checkpointed=request.gradient_checkpointing,
    )
    every = sum(one.rows for one in lengths)
    mean = sum(one.rows * one.mean for one in lengths) / every
    held_out, rows = hold_out.of(lengths)
    sequences = rows * _sequences_per_row(lengths, use.max_length) if settings.pack else rows
    steps, tokens = _duration(settings, spec["epochs"], rows, mean, sequences)
    evaluations = math.ceil(steps / settings.checkpoint_steps) if settings.checkpoint_steps else CHECKPOINTS
    parameters, _ = weight_size(identity)
    at_once = use.batch_tokens or size.batch_tokens
    checkpointing = request.gradient_checkpointing
    copies = copies_on_disk(
        keep_optimizer=request.keep_optimizer,
        held_out=bool(settings.hold_out),
        averaged=settings.average_weights,
        kept=1 + evaluations if request.keep_checkpoints else 0,
    )
    measured = evaluations * held_out * mean if settings.hold_out else 0.0
    forward = FORWARD * (checkpointing * tokens + measured)
    return FinetuneEstimate(
        rows=rows,
        held_out=held_out,
        sampled=sum(one.seen for one in lengths),
        unusable=sum(one.unusable for one in lengths),
        truncated=sum(one.truncated for one in lengths),
        steps=steps,
        tokens=tokens,
        mean_tokens=mean,
        max_tokens=max(one.longest for one in lengths),
        adapter_parameters=size.adapter_parameters,
        batch_tokens=at_once,
        memory_bytes=_memory(size, parameters, at_once),
        disk_bytes=4 * size.adapter_parameters * copies,
        seconds=(OPERATIONS * tokens + forward) * parameters / operations_per_second(use.device),
    )


def estimate_sweep(
    store_path: str | Path, request: TrainingRequest, *, seeds: Sequence[int], lr_rates: Sequence[float] = RATES,
    lr_steps: int = TRIAL_STEPS,
) -> FinetuneEstimate:  # fmt: skip
    """What `ntkcli.steps.training.lr_find.find_rate` would take: steps, tokens and seconds of all trials together."""
    trials = len(check_rates(lr_rates)) * len(seeds)
    store.check_name(request.name, "--name")
    hold_out = request.settings.hold_out
    trial = trial_of(request, RATES[0], seeds[0])
    held_out = _HeldOut(hold_out or HELD_OUT, 0, None if hold_out else HELD_OUT_ROWS)
    one = _estimate(store_path, trial, held_out)
    domain = estimate_finetune(store_path, replace(trial, train=trial.train[:1]))
    part = min(one.steps, lr_steps) / one.steps * trials
    measured = FORWARD / OPERATIONS * one.held_out * domain.mean_tokens * (trials + 1)
    tokens = round(one.tokens * part)
    return replace(
        one,
        steps=min(one.steps, lr_steps) * trials,
        tokens=tokens,
        seconds=one.seconds * part * (1 + measured / max(1, tokens)),
    )


def _duration(settings: TrainingSettings, epochs: Any, rows: int, mean: float, sequences: float) -> tuple[int, int]:
    """Steps and tokens of the training on `rows` rows of `mean` tokens, in so many `sequences`."""
    an_epoch = max(1, math.ceil(sequences / settings.batch_size))
    passes = settings.max_steps / an_epoch if settings.max_steps else epochs
    tokens = settings.max_tokens or round(passes * mean * rows)
    steps = max(1, round(tokens / mean / rows * an_epoch)) if settings.max_tokens else round(passes * an_epoch)
    return steps, tokens


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Of one set: its usable rows (repeats counted, pieces of documents, extrapolated), each `times` an epoch, and what
    the rows looked at showed: `tokens` of each row or piece."""

    rows: float
    times: float
    tokens: NDArray[np.int64]
    seen: int
    unusable: int
    truncated: int

    @property
    def mean(self) -> float:
        """Tokens of a row."""
        return float(self.tokens.mean()) if len(self.tokens) else 0.0

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.tokens.max(initial=0))


def _sample(one: TrainingSet, encoder: Encoder, seed: int, most: int) -> _Lengths:
    drawn, times = one.drawn(seed)
    lengths: list[int] = []
    seen = truncated = unusable = 0
    for row in drawn:
        if seen == most:
            break
        seen += 1
        try:
            encoded = [] if isinstance(row, BadRow) else encoder.encode_pieces(row)
        except RowError:
            encoded = []
        if any(each.supervised.any() for each in encoded):
            lengths += map(len, encoded)
            truncated += any(each.truncated for each in encoded)
        else:
            unusable += 1
    return _Lengths(
        rows=float(times.sum()) * len(lengths) / max(1, seen),
        times=one.times,
        tokens=np.array(lengths, dtype=np.int64),
        seen=seen,
        unusable=unusable,
        truncated=truncated,
    )


def _sequences_per_row(lengths: Sequence[_Lengths], max_length: int) -> float:
    """How many packed sequences a row comes to, as the rows looked at pack."""
    tokens = np.concatenate([one.tokens for one in lengths])
    return len(pack_rows(tokens.tolist(), max_length, seed=0)) / max(1, len(tokens))


def _memory(size: TrainingSize, parameters: int, batch_tokens: int) -> int:
    """Bytes of weights, optimiser and activations."""
    return parameters * size.weight_bytes + STATE_BYTES * size.adapter_parameters + batch_tokens * size.token_bytes
