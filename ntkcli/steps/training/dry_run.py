"""What a fine-tuning would take, found out without loading weights: rows, steps, tokens, disk, memory, time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ntkcli.choices import Dtype, OnError
from ntkcli.data import BadRow, Encoder, RowError, stdin
from ntkcli.data.references import home
from ntkcli.errors import DataError, UsageError
from ntkcli.identity import resolve_model
from ntkcli.steps.shared.cost import SAMPLE_ROWS, weight_size
from ntkcli.steps.shared.stores import is_store, open_store
from ntkcli.steps.training.finetune import steps_of_run, tokens_of_run
from ntkcli.steps.training.rows import TrainingSet, parse_train, resolve_train
from ntkcli.steps.training.settings import CHECKPOINTS, TrainingSettings, resolve_init

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
    """The bill of a fine-tuning; tokens are extrapolated from `sampled` rows, seconds from a product on this device.

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


def estimate_finetune(
    store_path: str | Path, *, model: str, train: Sequence[str], then: Sequence[str] = (), max_length: int = 1024,
    dtype: Dtype = Dtype.AUTO, device: str = "auto", on_error: OnError = OnError.FAIL, init_adapter: str | None = None,
    batch_tokens: int | None = None, gradient_checkpointing: bool = False, keep_optimizer: bool = False,
    columns: Mapping[str, str] | None = None, split: str | None = None, thinking: bool | None = None,
    trust_remote_code: bool = False, match_tokens: str | None = None, max_tokens: int | None = None,
    match_steps: str | None = None, max_steps: int | None = None, name: str = "",
    progress: object = None, data: Sequence[str] = (),
    **settings_given: Any,
) -> FinetuneEstimate:  # fmt: skip
    """What `ntkcli.steps.training.finetune.finetune` with these arguments would take. Writes nothing and loads no
    weights."""
    del name, progress  # change nothing of it
    from ntkcli.engine.models.limits import refuse_too_long
    from ntkcli.engine.models.loading import load_tokenizer
    from ntkcli.engine.models.speed import operations_per_second
    from ntkcli.engine.training.checkpoints import copies_on_disk
    from ntkcli.engine.training.size import training_size

    stored = open_store(store_path) if is_store(store_path) else None
    if match_tokens is not None:
        max_tokens = tokens_of_run(open_store(store_path), match_tokens)
    if match_steps is not None:
        max_steps = steps_of_run(open_store(store_path), match_steps)
    train = [*train, *then]
    if stdin.STDIN in [parse_train(text)[0] for text in train]:
        raise UsageError("--dry-run keeps nothing, so what standard input gives would be lost.", "Give a file.")
    settings = TrainingSettings(max_tokens=max_tokens, max_steps=max_steps, **settings_given)
    settings.check()
    identity = resolve_model(model, trust_remote_code=trust_remote_code)
    init = resolve_init(init_adapter, settings, adapters=Path(home(store_path)) / "adapters", model=identity)
    sets = resolve_train(stored, train, columns=columns, split=split, on_error=on_error, data=data)
    encoder = Encoder(load_tokenizer(identity), max_length=max_length, thinking=thinking)
    lengths = [_sample(one, encoder, settings.seed, SAMPLE_ROWS // len(sets)) for one in sets]
    every = sum(one.rows for one in lengths)
    if not every:
        raise DataError(f"--train {', '.join(train)}: no row has an answer to learn.", "Give rows with completions.")
    refuse_too_long(identity, max(one.longest for one in lengths), "The longest row")
    mean = sum(one.rows * one.mean for one in lengths) / every
    held_out = max(1, round(settings.hold_out * every)) if settings.hold_out else 0
    rows = round(every - held_out)
    spec = settings.spec(init)
    size = training_size(
        identity,
        rank=spec["rank"],
        target_modules=spec["target_modules"],
        dtype=dtype,
        device=device,
        init=None if init is None else init.identity,
    )
    an_epoch = max(1, math.ceil(rows / settings.batch_size))
    passes = settings.max_steps / an_epoch if settings.max_steps else spec["epochs"]
    tokens = settings.max_tokens or round(passes * mean * rows)
    steps = max(1, round(tokens / mean / rows * an_epoch)) if settings.max_tokens else round(passes * an_epoch)
    evaluations = math.ceil(steps / settings.checkpoint_steps) if settings.checkpoint_steps else CHECKPOINTS
    parameters, _ = weight_size(identity)
    at_once = batch_tokens or size.batch_tokens
    copies = copies_on_disk(keep_optimizer=keep_optimizer, held_out=bool(held_out), averaged=settings.average_weights)
    forward = FORWARD * (gradient_checkpointing * tokens + evaluations * held_out * mean)
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
        memory_bytes=_memory(size, parameters, at_once, gradient_checkpointing=gradient_checkpointing),
        disk_bytes=4 * size.adapter_parameters * copies,
        seconds=(OPERATIONS * tokens + forward) * parameters / operations_per_second(device),
    )


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Of one set: its usable rows (repeats counted, extrapolated), and what the rows looked at showed."""

    rows: float
    mean: float
    longest: int
    seen: int
    unusable: int
    truncated: int


def _sample(one: TrainingSet, encoder: Encoder, seed: int, most: int) -> _Lengths:
    drawn, times = one.drawn(seed)
    lengths: list[int] = []
    seen = truncated = 0
    for row in drawn:
        if seen == most:
            break
        seen += 1
        try:
            encoded = None if isinstance(row, BadRow) else encoder.encode(row)
        except RowError:
            continue
        if encoded is not None and encoded.supervised.any():
            lengths.append(len(encoded))
            truncated += encoded.truncated
    share = len(lengths) / max(1, seen)
    counts = np.array(lengths or [0])
    return _Lengths(
        rows=float(times.sum()) * share,
        mean=float(counts.mean()),
        longest=int(counts.max()),
        seen=seen,
        unusable=seen - len(lengths),
        truncated=truncated,
    )


def _memory(size: TrainingSize, parameters: int, batch_tokens: int, *, gradient_checkpointing: bool) -> int:
    """Bytes of weights, optimiser and activations."""
    token_bytes = size.checkpointed_token_bytes if gradient_checkpointing else size.token_bytes
    return parameters * size.weight_bytes + STATE_BYTES * size.adapter_parameters + batch_tokens * token_bytes
