"""Samples of features: the right rows with the right vectors, from a bounded number of parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ntkcli.steps.reports import sample as module
from ntkcli.steps.reports.sample import sample
from ntkcli.steps.shared.stores import open_store
from tests.steps.reports.kit import made_store


def test_rows_come_with_their_own_vectors(tmp_path: Path) -> None:
    features = open_store(made_store(tmp_path)).get("features/pool/ntk")
    whole = features.read("sketch")
    drawn = sample(features, most=50)
    assert len(set(drawn.rows.tolist())) == 50
    assert drawn.of == 200
    np.testing.assert_array_equal(drawn.unit, whole[drawn.rows])
    wanted = np.array([150, 3, 77])
    asked = sample(features, most=2, only=wanted)
    assert asked.rows.tolist() == [150, 3]  # in their order
    np.testing.assert_array_equal(asked.unit, whole[[150, 3]])


def test_no_more_parts_are_read_than_the_budget_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = open_store(made_store(tmp_path)).get("features/pool/ntk")
    monkeypatch.setattr(module, "READ_BYTES", features.part_rows * 8 * 4)  # one part
    assert len({row // features.part_rows for row in sample(features, most=100).rows.tolist()}) == 1
    assert sample(features, most=9, only=np.array([0, 199, 1])).rows.tolist() == [0, 1]
