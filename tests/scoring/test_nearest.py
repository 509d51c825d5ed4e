"""Each domain row's nearest pool rows, held against a sort of all cosines, however the pool comes in blocks."""

from __future__ import annotations

import numpy as np
import pytest

from ntkcli.scoring.nearest import LEAST_ROOM, Nearest, NearestRows, turns


def by_sorting(similar: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similar, order, axis=1)


@pytest.mark.parametrize("k", [1, 7, 900])
@pytest.mark.parametrize("ascending", [False, True])
def test_the_nearest_of_all(k: int, ascending: bool) -> None:
    """With ties, of which the earlier rows are kept; also where every row is better than all before it."""
    draw = np.random.default_rng(k)
    similar = draw.integers(0, 300, (3, 4 * LEAST_ROOM)).astype(np.float32) / 300
    if ascending:
        similar.sort(axis=1)
    nearest = NearestRows(3, n=similar.shape[1], k=k)
    for rows in np.split(np.arange(similar.shape[1]), [10, 11, LEAST_ROOM + 400, 3 * LEAST_ROOM]):
        nearest.add(rows, similar[:, rows])
    found = nearest.found()
    rows, best = by_sorting(similar, k)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.similarity, best)
    np.testing.assert_array_equal(found.highest, similar.max(axis=0))
    np.testing.assert_allclose(found.mean, similar.mean(axis=0, dtype=np.float64))


def test_lists_take_no_room_for_rows_that_are_not_near() -> None:
    nearest = NearestRows(2, n=10**6, k=100)
    assert nearest._best.shape == (2, 100 + LEAST_ROOM)


def test_turns_against_sets() -> None:
    draw = np.random.default_rng(3)
    rows = np.stack([draw.permutation(30)[:12] for _ in range(4)])
    highest = np.where(np.arange(30) == 29, np.nan, 0.5)
    taken: dict[int, int] = {}
    for turn in range(1, 13):
        for row in rows.tolist():
            mine = [each for each in row if each not in taken]
            if mine:
                taken[mine[0]] = turn
    expected = np.where(np.isnan(highest), np.nan, 0.0)
    for row, turn in taken.items():
        expected[row] = 1 / turn
    found = turns(Nearest(rows, np.zeros((4, 12), np.float32), highest, highest))
    np.testing.assert_array_equal(found, expected)
