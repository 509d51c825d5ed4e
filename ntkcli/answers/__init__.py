"""Written answers judged: normalisation, exact match, token F1, and which choice a text gives. Plain strings."""

from ntkcli.answers.extraction import AnswerPattern, find_answer, find_choice
from ntkcli.answers.match import exact_match, normalise, token_f1

__all__ = ["AnswerPattern", "exact_match", "find_answer", "find_choice", "normalise", "token_f1"]
