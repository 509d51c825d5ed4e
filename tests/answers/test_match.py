"""SQuAD's metrics, on its script's own cases."""

from __future__ import annotations

import pytest

from ntkcli.answers import exact_match, normalise, token_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The  Cat, a dog!", "cat dog"), ("An answer", "answer"), ("theatre", "theatre"), ("1,000.5", "10005"), ("a", "")],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "same", "f1"),
    [
        ("The Eiffel Tower.", "eiffel tower", True, 1.0),
        ("the tower", "Eiffel Tower", False, 2 / 3),
        ("red red blue", "red", False, 0.5),
        ("red red", "red red", True, 1.0),
        ("green", "red", False, 0.0),
        ("", "red", False, 0.0),
        ("the", "a", True, 1.0),
    ],
)
def test_exact_match_and_f1(answer: str, reference: str, same: bool, f1: float) -> None:
    assert exact_match(answer, reference) is same
    assert token_f1(answer, reference) == pytest.approx(f1)
