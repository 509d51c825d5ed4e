"""Which choice a text gives: the documented rule, case by case."""

from __future__ import annotations

import pytest

from ntkcli.answers import AnswerPattern, find_answer, find_choice
from ntkcli.errors import UsageError

LICENCES = ["Copyleft", "Copyleft Limited", "Permissive"]
LETTERED = ["A. Aspirin", "B. Beta blocker", "C. None of them"]


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("Copyleft Limited", LICENCES, 1),
        ("copyleft.", LICENCES, 0),
        ("It is Copyleft Limited, I think.", LICENCES, 1),
        ("Either Copyleft or Permissive.", LICENCES, None),
        ("Copyleft or rather Copyleft Limited", LICENCES, None),
        ("The answer is copyleft limited because it may be linked.", LICENCES, 1),
        ("Permissive? No: the answer is (B).", LICENCES, 1),
        ("The answer is A. No wait, the answer is C.", LICENCES, 2),
        ("B", LICENCES, 1),
        ("(c) since it is so", LICENCES, 2),
        ("B. Beta blocker", LETTERED, 1),
        ("Beta blocker", LETTERED, 1),
        ("**B**", LETTERED, 1),
        ("Option B", LETTERED, 1),
        ("Answer: aspirin", LETTERED, 0),
        ("A dog is an animal", LETTERED, None),
        ("I would rather not say", LICENCES, None),
        ("D", LICENCES, None),
        ("", LICENCES, None),
        ("no", ["yes", "no", "maybe"], 1),
        ("not known", ["yes", "no", "maybe"], None),
        ("+", ["+", "-"], 0),
    ],
)
def test_rule(text: str, choices: list[str], expected: int | None) -> None:
    assert find_choice(text, choices, None) == expected


def test_pattern_takes_the_last_match() -> None:
    pattern = AnswerPattern(r"so the answer is (\w+)")
    text = "Red, so the answer is red. But it is night, So the answer is blue."
    assert pattern.find(text) == "blue"
    assert find_choice(text, ["red", "blue"], pattern) == 1
    assert find_choice("red", ["red", "blue"], pattern) is None
    assert find_answer("42 apples, 12 pears", AnswerPattern(r"\d+")) == "12"
    assert find_answer("  four ", None) == "four"
    assert find_answer("  ", None) is None


def test_no_regular_expression() -> None:
    with pytest.raises(UsageError, match=r"--answer-pattern '\(' is not a valid regular expression.*quoted"):
        AnswerPattern("(")


def test_a_thought_is_no_part_of_an_answer():
    thought = "<think>\nIs it Copyleft? The answer is Copyleft.\n</think>\n\nPermissive"
    for text in (thought, thought.removeprefix("<think>\n")):  # the prompt may have opened it
        assert find_answer(text, None) == "Permissive"
        assert find_choice(text, LICENCES, None) == 2
        assert find_answer(text, AnswerPattern("answer is (.*)")) is None
