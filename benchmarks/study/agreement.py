"""How alike the choices of arms are: shared rows, and what the chosen rows look like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from arms import PRESELECTIONS, REFERENCE
from plan import Plan
from scipy import stats

from ntkcli.steps.shared.row_sets import selected_rows
from ntkcli.steps.shared.stores import open_store


def print_agreement(plans: Sequence[Plan], arms: Sequence[str]) -> None:
    """For each cell and each of `arms` that has chosen: rows shared with the reference, rank agreement, length."""
    for plan in plans:
        stored = open_store(plan.store)
        pool = stored.find("datasets/pool")
        have = [arm for arm in arms if stored.find(f"selections/{plan.own(arm)}") is not None]
        if pool is None or REFERENCE not in have:
            continue
        rows = {arm: selected_rows(stored, plan.own(arm), dataset=pool)[0] for arm in have}
        score = {arm: stored.get(f"scores/{plan.own(arm)}").read("score") for arm in have}
        tokens = stored.get(f"features/pool/{plan.embedding}").read("tokens")
        chance = (
            f"{1 / PRESELECTIONS['coarse'].times:.0%} out of the pre-selection, {plan.cell.n / pool.n:.0%} of the pool"
        )
        print(f"\n**{plan.cell.name}**, {plan.cell.n} rows of {pool.n}; by chance arms share {chance}\n")
        print(f"| arm | rows shared with {REFERENCE} | Spearman with its score | mean tokens |\n|---|---|---|---|")
        for arm in have:
            shared = len(set(rows[arm]) & set(rows[REFERENCE])) / len(rows[REFERENCE])
            both = ~np.isnan(score[arm]) & ~np.isnan(score[REFERENCE])
            rho = stats.spearmanr(score[arm][both], score[REFERENCE][both]).statistic
            print(f"| {arm} | {shared:.0%} | {rho:.2f} | {np.mean(tokens[rows[arm]]):.0f} |")
