"""What an evaluation would take, without loading weights: items, tokens, time."""

from __future__ import annotations

import numpy as np

import store
from ntkcli.data import Encoded
from ntkcli.steps.evaluation.item_tokens import ItemTokens, refuse_long_items
from ntkcli.steps.evaluation.plan import Plan
from ntkcli.steps.shared.cost import SAMPLE_ROWS, Estimate, weight_size

FORWARD_OPERATIONS = 2.0
"""Operations a parameter and token."""


def estimate_evaluation(plan: Plan) -> Estimate:
    """The bill of the items that are not done yet, over all runs; generated answers count at their longest."""
    from ntkcli.engine.models.footprint import planned_tokens
    from ntkcli.engine.models.loading import load_tokenizer
    from ntkcli.engine.models.speed import operations_per_second

    items, use = plan.items, plan.asked.use
    item_tokens = ItemTokens(items, use.encoder(load_tokenizer(plan.identity)))
    some = np.unique(np.linspace(0, len(items.rows) - 1, min(SAMPLE_ROWS, len(items.rows))).astype(np.int64))
    lengths, unusable, truncated = [], 0, 0
    for index in some.tolist():
        status, encoded = item_tokens.of(index)
        if not encoded:
            unusable += 1
            continue
        truncated += status == store.RowStatus.TRUNCATED
        lengths.append(_tokens(encoded) + (plan.settings.max_new_tokens if items.scorer(index) == "generate" else 0))
    refuse_long_items(item_tokens, plan.identity, plan.settings.max_new_tokens)
    counts = np.array(lengths or [0])
    rows = sum(_open_items(plan, run) for run in plan.adapters)
    tokens = round(float(counts.mean()) * rows * len(lengths) / max(1, len(some)))
    parameters, weight_bytes = weight_size(plan.identity)
    return Estimate(
        step="eval",
        rows=rows,
        sampled=len(some),
        unusable=unusable,
        tokens=tokens,
        mean_tokens=float(counts.mean()),
        p95_tokens=float(np.percentile(counts, 95)),
        max_tokens=int(counts.max()),
        truncated=truncated,
        disk_bytes=rows * 8 * (items.n_choices + 3),
        weight_bytes=weight_bytes,
        batch_tokens=use.batch_tokens
        or planned_tokens(
            plan.identity, backward=False, dtype=str(plan.spec["dtype"]), device=use.device, weights=parameters
        ),
        seconds=tokens * parameters * FORWARD_OPERATIONS / operations_per_second(use.device),
    )


def _tokens(encoded: list[Encoded]) -> int:
    """Tokens computed: of several choices, the prompt once."""
    prompt = min(int(np.argmax(one.supervised)) if one.supervised.any() else len(one) for one in encoded)
    return prompt + sum(len(one) - prompt for one in encoded)


def _open_items(plan: Plan, run: str) -> int:
    known = plan.known.get(run)
    return len(plan.items.rows) - (0 if known is None else known.rows_done())
