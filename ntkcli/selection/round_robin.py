"""Select by turns: every domain row takes its nearest open pool row, round after round."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ntkcli.scoring.nearest import Nearest
from ntkcli.selection.chooser import Bools, Chooser

FIRST_DEPTH = 64
"""Nearest rows that are looked up for each domain row at first; doubled when a list runs out."""


def choose_by_turns(chooser: Chooser, nearest: Callable[[Bools, int], Nearest], *, n_domain: int) -> None:
    """Fill the chooser; a row's gain is its similarity to the domain row that took it.

    `nearest(open, k)` gives each domain row's k nearest open candidates, best first. Each call costs
    O(n_domain · n_pool · p) and happens once or, where lists overlap much, a few times; the turns O(N · n_domain).
    """
    wanted = int(chooser.open.sum()) if chooser.wanted is None else chooser.wanted
    depth = max(FIRST_DEPTH, 4 * -(-wanted // n_domain))
    turn: int | None = 0
    while turn is not None and not chooser.done:
        k = min(depth, int(chooser.open.sum()))
        turn = _rounds(chooser, nearest(chooser.open.copy(), k), turn)
        depth *= 2


def _rounds(chooser: Chooser, lists: Nearest, turn: int) -> int | None:
    """Turns from domain row `turn` on, until the chooser is done (None) or the row whose list ran out (its index)."""
    position = np.zeros(len(lists.rows), dtype=np.int64)
    while True:
        taken = False
        while not taken:
            if chooser.done:
                return None
            if position[turn] == lists.rows.shape[1]:
                return turn
            row = int(lists.rows[turn, position[turn]])
            if chooser.open[row]:
                taken = chooser.take(row, float(lists.similarity[turn, position[turn]]))
            position[turn] += 1
        turn = (turn + 1) % len(lists.rows)
