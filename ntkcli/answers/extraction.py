"""The answer within a generated text: by a user's pattern, and for items with choices by a fixed rule.

The rule of `find_choice`, in this order; the first that gives one choice decides:

1. the whole text, normalised, is a choice;
2. "answer is X", "answer: X", "answer X", where X is a choice's letter or begins with a choice's text: the last such;
3. the text begins with a choice's letter on its own: "B", "B.", "(b)", "B) ...";
4. exactly one choice's text stands in it as whole words, not counting those that stand within a longer choice's.

Letters are A, B, C, ... in the order of the choices. A choice that begins with its own letter ("A. Aspirin") is also
known by the text behind it. Otherwise there is no answer, which counts as wrong and in the rate of missing answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ntkcli.answers.match import normalise
from ntkcli.errors import UsageError

_STATED = re.compile(r"\banswer(?:\s+is)?\s*:?\s*(?=(?P<rest>[^\n]*))", re.IGNORECASE)
_LETTER = re.compile(
    r"\W*(?:(?:option|choice)\s+)?[(\[*\"']*(?P<letter>[A-Z])(?P<end>[)\]*.:\"',]+(?:\s|$)|\s*$)", re.IGNORECASE
)
_OWN_LETTER = re.compile(r"\(?(?P<letter>[A-Z])[.):]\s+(?P<rest>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class AnswerPattern:
    """A user's regular expression; the answer is its last match in a text: the first group, or the whole match."""

    text: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.text)
        except re.error as error:
            raise UsageError(
                f"--answer-pattern {self.text!r} is not a valid regular expression: {error}.",
                "Give one like 'answer is (.*)', quoted for the shell.",
            ) from error

    def find(self, text: str) -> str | None:
        """The answer that the pattern finds, stripped, or None."""
        matches = list(re.finditer(self.text, text, re.IGNORECASE | re.MULTILINE))
        if not matches:
            return None
        found = matches[-1].group(1) if matches[-1].re.groups else matches[-1].group(0)
        return (found or "").strip() or None


def find_answer(text: str, pattern: AnswerPattern | None) -> str | None:
    """The answer in a text of an item without choices: what the pattern finds, or the whole; None if there is none.

    A thought before it (up to `</think>`) is not part of it.
    """
    text = text.rpartition("</think>")[2]
    return pattern.find(text) if pattern else text.strip() or None


def find_choice(text: str, choices: Sequence[str], pattern: AnswerPattern | None) -> int | None:
    """The choice that a text gives, by the rule of this module within what the pattern finds; None if none."""
    answer = find_answer(text, pattern)
    if answer is None:
        return None
    names = [_names(choice) for choice in choices]
    for rule in (_whole, _stated, _leading_letter, _only_one_named):
        if (found := rule(answer, names)) is not None:
            return found
    return None


def _names(choice: str) -> tuple[str, ...]:
    """The normalised texts that a choice is known by."""
    own = _OWN_LETTER.fullmatch(choice.strip())
    texts = [choice] if own is None else [choice, own["rest"]]
    return tuple(name for name in map(normalise, texts) if name) or (choice.strip().lower(),)


def _whole(text: str, names: Sequence[tuple[str, ...]]) -> int | None:
    said = normalise(text) or text.strip().lower()
    found = [i for i, own in enumerate(names) if said in own]
    return found[0] if len(found) == 1 else None


def _stated(text: str, names: Sequence[tuple[str, ...]]) -> int | None:
    for match in reversed(list(_STATED.finditer(text))):
        rest = match["rest"]
        if (found := _leading_letter(rest, names)) is not None:
            return found
        said = f"{normalise(rest)} "
        begun = [(len(name), i) for i, own in enumerate(names) for name in own if said.startswith(f"{name} ")]
        if begun:
            return max(begun)[1]
    return None


def _leading_letter(text: str, names: Sequence[tuple[str, ...]]) -> int | None:
    match = _LETTER.match(text)
    if match is None:
        return None
    number = ord(match["letter"].upper()) - ord("A")
    return number if number < len(names) else None


def _only_one_named(text: str, names: Sequence[tuple[str, ...]]) -> int | None:
    rest, found = f" {normalise(text)} ", set()
    for name, i in sorted(((name, i) for i, own in enumerate(names) for name in own), key=lambda pair: -len(pair[0])):
        if f" {name} " in rest:
            found.add(i)
            rest = rest.replace(f" {name} ", "  ")  # "copyleft" in "copyleft limited" is not named
    return found.pop() if len(found) == 1 else None
