"""The score `exact`: the features' own settings, but no projection; every other score can be judged by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Dtype, OnError
from ntkcli.data import BadRow, Encoded, Row
from ntkcli.errors import NtkselError, UsageError
from ntkcli.group import ALONE as NOBODY
from ntkcli.group import Group
from ntkcli.progress import Progress
from ntkcli.scoring.features import Rows
from ntkcli.steps.scores.remake import Remade, gradient_settings, refuse_adam, remake
from ntkcli.steps.scores.sorts import ModelInputs, ModelScore, PartScorer
from ntkcli.steps.shared.datasets import data_file
from ntkcli.steps.shared.environment import begin, model_environment
from ntkcli.steps.shared.fitting import naming
from ntkcli.steps.shared.kept_tokens import KeptTokens
from ntkcli.steps.shared.non_finite import name_of, settle_non_finite
from ntkcli.steps.shared.release import frees_memory
from ntkcli.steps.shared.row_sets import rows_in_order
from ntkcli.steps.shared.shards import ALONE, Shard, wait_for_others
from ntkcli.steps.shared.sharing import end_share, mine
from ntkcli.steps.shared.token_counts import kept_tokens

VERSION, FLOAT16_VERSION = 1, 2
"""Of this score, in its spec: goes up when the same features' settings would give other scores. In float16 it went up
alone: gradients began so small that they lost digits."""
TOO_LONG = "Give --dtype bfloat16 or --device cpu, or score by features that were made with a shorter --max-length."
"""What helps where a row does not fit in memory: how long rows may be stands in the features' spec."""
PART_ROWS = 256
"""Rows of a part: as for the features, what a kill may lose."""


def exact_spec(features: store.Artefact, known: store.Artefact | None, *, dtype: str) -> dict[str, Any]:
    """What only this score's spec has. `dtype` auto: as the score was begun, else as the features were computed."""
    begun = features.spec["dtype"] if known is None else known.spec.get("dtype", features.spec["dtype"])
    settled = begun if dtype == Dtype.AUTO else dtype
    return {"exact": FLOAT16_VERSION if settled == Dtype.FLOAT16 else VERSION, "dtype": settled}


def skipped_rows(score: store.Artefact) -> int:
    """How many rows of pool and domain were left out because a value is not finite."""
    of_pool = int((score.read("status") == store.RowStatus.NON_FINITE).sum())
    return of_pool + int(score.attrs.get("domain_left_out", 0))


def fill_exact(
    stored: store.Store,
    score: store.Artefact,
    entry: ModelScore,
    *,
    features: store.Artefact,
    pool: store.Artefact,
    domain: store.Artefact,
    only: Rows | None,
    device: str,
    batch_tokens: int | None,
    on_error: OnError,
    progress: Progress,
    shard: Shard = ALONE,
    processes: Group = NOBODY,
) -> None:
    """Compute the pending parts of the score of data set `pool` against `domain`, as `features` (the pool's) were made.

    The domain's mean gradient is computed by each run, and by each process, that finds parts of its own pending. The
    score is complete afterwards: of several processes each waits for the others' parts.

    Raises:
        SpecError: the model or the adapter is no longer where the features were made from, or has changed.
        NtkselError: a row does not fit in memory or, with on_error "fail", has values that are not finite; names it.
    """
    pending = mine(score, score.pending(shard))
    if pending or (processes.count > 1 and score.pending()):  # one that shares the model computes with the others
        _fill(pending, stored, score, entry, features=features, pool=pool, domain=domain, only=only, device=device,
              batch_tokens=batch_tokens, on_error=on_error, progress=progress, processes=processes)  # fmt: skip
    end_share()
    wait_for_others([score], shard, progress)


@frees_memory
def _fill(
    pending: Sequence[int], stored: store.Store, score: store.Artefact, entry: ModelScore, *, features: store.Artefact,
    pool: store.Artefact, domain: store.Artefact, only: Rows | None, device: str, batch_tokens: int | None,
    on_error: OnError, progress: Progress, processes: Group,
) -> None:  # fmt: skip
    """Compute these parts."""
    dtype = score.spec["dtype"]
    made = _remake(stored, features, dtype=dtype, device=device, processes=processes)
    settings = replace(gradient_settings(features.spec), projection="none")
    scorer = entry.scorer(ModelInputs(made.loaded, made.model, made.adapter, settings, batch_tokens))
    now = model_environment(made.model, made.loaded)
    begin(score, now, progress)
    planned = scorer.budget.tokens
    wanted = np.ones(pool.n, dtype=np.bool_) if only is None else np.isin(np.arange(pool.n), only)
    progress.start(score.name, total=domain.n + score.n, unit="rows", done=score.rows_done())
    tokens = kept_tokens(stored, domain, made.model, made.encoder)
    left_out = _learn(scorer, tokens, _chunks(stored, domain, PART_ROWS), domain, on_error, progress)
    if left_out:
        score.note(domain_left_out=left_out)
    tokens = kept_tokens(stored, pool, made.model, made.encoder)
    for part, rows in enumerate(_chunks(stored, pool, score.part_rows)):
        if part not in pending:
            continue
        chunk = _Chunk.of(rows, tokens, wanted)
        values, status = np.full(len(rows), np.nan, dtype=np.float32), chunk.status
        with chunk.naming(), np.errstate(over="ignore"):
            values[chunk.good] = scorer.score(chunk.encoded)
        bad = [i for i in chunk.good if not np.isfinite(values[i])]
        settle_non_finite("gradients", [rows[i] for i in bad], on_error=on_error, progress=progress)
        values[bad], status[bad] = np.nan, store.RowStatus.NON_FINITE
        ties = np.full(len(rows), np.nan, dtype=np.float32)
        score.write_part(part, {"score": values, "similarity": ties, "status": status})
        progress.advance(len(rows), tokens=sum(map(len, chunk.encoded)))
    scorer.end()
    if scorer.budget.tokens < planned:
        progress.note(
            f"memory ran out: batches went from {planned} to {scorer.budget.tokens} tokens; "
            f"give --batch-tokens {scorer.budget.tokens} to start there"
        )


def _learn(
    scorer: PartScorer,
    tokens: KeptTokens,
    chunks: Iterator[list[Row | BadRow]],
    domain: store.Artefact,
    on_error: OnError,
    progress: Progress,
) -> int:
    """Give the scorer the domain; returns how many rows' gradients are not finite and were left out of the mean."""
    learned = left_out = 0
    for rows in chunks:
        chunk = _Chunk.of(rows, tokens)
        with chunk.naming():
            bad = [rows[chunk.good[k]] for k in scorer.learn(chunk.encoded)]
        settle_non_finite("gradients", bad, on_error=on_error, progress=progress)
        learned, left_out = learned + len(chunk.good) - len(bad), left_out + len(bad)
        progress.advance(len(rows), tokens=sum(map(len, chunk.encoded)))
    if not learned:
        raise NtkselError(
            f"No row of {domain.name} has a gradient to compare with: {left_out} are not finite.",
            "Give --dtype float32, or another domain.",
        )
    return left_out


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows of a file; `encoded` are those at `good`, and `status` (n,) says why others are not."""

    rows: Sequence[Row | BadRow]
    good: list[int]
    encoded: list[Encoded]
    status: NDArray[np.uint8]

    @classmethod
    def of(cls, rows: Sequence[Row | BadRow], tokens: KeptTokens, wanted: NDArray[np.bool_] | None = None) -> Self:
        """The rows encoded that can be and, of a pool, are `wanted`."""
        chunk = cls(rows, [], [], np.zeros(len(rows), dtype=np.uint8))
        places = [i for i, row in enumerate(rows) if isinstance(row, BadRow) or wanted is None or wanted[row.index]]
        for i, (row, found) in zip(places, tokens.encoded_rows([rows[i] for i in places]), strict=True):
            if isinstance(found, Encoded):
                chunk.good.append(i)
                chunk.encoded.append(found)
                chunk.status[i] = store.RowStatus.TRUNCATED if found.truncated else store.RowStatus.OK
            else:
                bad = row if isinstance(row, BadRow) else found
                chunk.status[i] = bad.status if bad is not None else store.RowStatus.UNREADABLE
        return chunk

    def naming(self) -> AbstractContextManager[None]:
        """A row that does not fit in memory is named."""
        return naming([name_of(self.rows[i]) for i in self.good], TOO_LONG)


def _remake(stored: store.Store, features: store.Artefact, *, dtype: str, device: str, processes: Group) -> Remade:
    if features.spec["kind"] == "embed":
        raise UsageError(f"{features.name} are embeddings; exact is a score of gradients.", "Give --feature ntk.")
    refuse_adam(features, what="exact is a score of gradients")
    return remake(stored, features, dtype=dtype, device=device, processes=processes)


def _chunks(stored: store.Store, dataset: store.Artefact, size: int) -> Iterator[list[Row | BadRow]]:
    stream = rows_in_order(data_file(stored, dataset), None, dataset.read("status"))
    while rows := list(islice(stream, size)):
        yield rows
