"""What an evaluation keeps of every item, and how a part of items is computed, scorer by scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.answers import AnswerPattern, exact_match, find_answer, find_choice, token_f1
from ntkcli.data import Encoded, Encoder, Row, RowError
from ntkcli.steps.evaluation.item_tokens import ItemTokens
from ntkcli.steps.evaluation.items import Items
from ntkcli.steps.shared.non_finite import name_of

if TYPE_CHECKING:
    from ntkcli.engine.evaluation.evaluator import Evaluator

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ScorerSettings:
    """How items are scored, in the words of `ntksel eval`."""

    normalise: str = "sum"
    max_new_tokens: int = 128
    answer_pattern: AnswerPattern | None = None

    def spec(self, scorers: Sequence[str]) -> dict[str, Any]:
        """What of the settings changes a value under these scorers, for the spec."""
        alike = len(set(scorers)) == 1
        spec: dict[str, Any] = {"scorer": scorers[0] if alike else list(scorers)}
        if "choices" in scorers and self.normalise != "sum":
            spec["normalise"] = self.normalise
        if "generate" in scorers:
            pattern = self.answer_pattern.text if self.answer_pattern else None
            spec["generate"] = {"max_new_tokens": self.max_new_tokens, "answer_pattern": pattern}
        return spec


def item_arrays(items: Items) -> dict[str, store.ArraySpec]:
    """The arrays of an eval with these tasks."""
    arrays = {
        "prediction": store.ArraySpec("int32"),
        "answer": store.ArraySpec("int32"),
        "correct": store.ArraySpec("uint8"),
        "task": store.ArraySpec("int32"),
        "status": store.ArraySpec("uint8", attrs=store.status_attrs()),
    }
    if "choices" in items.scorers:
        arrays["loglik"] = store.ArraySpec("float64", (items.n_choices,))
    if "generate" in items.scorers:
        arrays |= {
            "text": store.ArraySpec(str),
            "extracted": store.ArraySpec(str),
            "f1": store.ArraySpec("float64"),
        }
    if "loss" in items.scorers:
        arrays |= {"nll": store.ArraySpec("float64"), "tokens": store.ArraySpec("int32")}
    return arrays


def score_part(
    tokens: ItemTokens, bounds: tuple[int, int], evaluator: Evaluator, settings: ScorerSettings
) -> tuple[Arrays, int]:
    """The arrays of items [start, stop), and how many tokens were computed.

    An item with a value that is not finite has the status `non_finite` and no values: it is never a prediction.
    """
    (start, stop), items = bounds, tokens.items
    arrays = {
        name: np.full((stop - start, *spec.tail), _nothing(name, spec), dtype=spec.numpy)
        for name, spec in item_arrays(items).items()
    }
    arrays["task"] = items.task[start:stop].astype(np.int32)
    encoded: list[list[Encoded]] = []
    for i, row in enumerate(items.rows[start:stop]):
        arrays["status"][i], found = tokens.of(start + i)
        encoded.append(found)
        if isinstance(row, Row) and row.answer is not None:
            arrays["answer"][i] = row.answer
    for scorer, compute in (("choices", _choices), ("generate", _generate), ("loss", _loss)):
        where = [i for i, found in enumerate(encoded) if found and items.scorer(start + i) == scorer]
        rows = [row for i in where if isinstance(row := items.rows[start + i], Row)]
        if where:
            with _naming(rows, scorer):
                compute(arrays, where, rows, [encoded[i] for i in where], evaluator, settings)
    return arrays, sum(len(one) for found in encoded for one in found)


@contextmanager
def _naming(rows: Sequence[Row], scorer: str) -> Iterator[None]:
    """An item of these that does not fit in memory is named, with the options that help."""
    from ntkcli.engine.memory import FIX, DoesNotFitError

    try:
        yield
    except DoesNotFitError as error:
        fix = f"{FIX[:-1]}; or fewer --max-new-tokens." if scorer == "generate" else FIX
        raise error.named(name_of(rows[error.row]), fix) from error


def _nothing(name: str, spec: store.ArraySpec) -> Any:
    return -1 if name in ("prediction", "answer") else spec.fill


def _choices(
    arrays: Arrays,
    where: Sequence[int],
    rows: Sequence[Row],
    encoded: Sequence[Sequence[Encoded]],
    evaluator: Evaluator,
    settings: ScorerSettings,
) -> None:
    """Log-likelihoods of choices, and the highest one, divided by tokens or characters if that is asked for."""
    for i, row, choices, values in zip(where, rows, encoded, evaluator.logliks(encoded), strict=True):
        if not np.isfinite(values).all():
            arrays["status"][i] = store.RowStatus.NON_FINITE
            continue
        arrays["loglik"][i, : len(values)] = values
        lengths = {
            "sum": np.ones(len(values)),
            "tokens": np.array([choice.supervised.sum() for choice in choices]),
            "characters": np.array([max(1, len(choice)) for choice in row.choices]),
        }[settings.normalise]
        arrays["prediction"][i] = np.argmax(values / lengths)
        arrays["correct"][i] = arrays["prediction"][i] == arrays["answer"][i]


def _generate(
    arrays: Arrays,
    where: Sequence[int],
    rows: Sequence[Row],
    encoded: Sequence[Sequence[Encoded]],
    evaluator: Evaluator,
    settings: ScorerSettings,
) -> None:
    """Written answers, what is extracted of them, and how they agree with the references."""
    pattern = settings.answer_pattern
    texts = evaluator.answers(
        [prompt for (prompt,) in encoded],
        end_of_turn=_end_of_turn(evaluator.encoder, rows),
        max_new_tokens=settings.max_new_tokens,
    )
    for i, row, text in zip(where, rows, texts, strict=True):
        if text is None:
            arrays["status"][i] = store.RowStatus.NON_FINITE
            continue
        arrays["text"][i] = text
        if row.choices:
            choice = find_choice(text, row.choices, pattern)
            if choice is not None:
                arrays["prediction"][i], arrays["extracted"][i] = choice, row.choices[choice]
            arrays["correct"][i] = choice == row.answer
            continue
        reference = row.messages[-1].content.strip()
        reference = (pattern.find(reference) if pattern else None) or reference
        answer = find_answer(text, pattern)
        arrays["extracted"][i] = answer or ""
        arrays["correct"][i] = answer is not None and exact_match(answer, reference)
        arrays["f1"][i] = 0.0 if answer is None else token_f1(answer, reference)


def _loss(
    arrays: Arrays,
    where: Sequence[int],
    rows: Sequence[Row],
    encoded: Sequence[Sequence[Encoded]],
    evaluator: Evaluator,
    settings: ScorerSettings,
) -> None:
    """The negative log-likelihood of each answer in nats, and its tokens."""
    del rows, settings
    for i, (one,), (value,) in zip(where, encoded, evaluator.logliks(encoded), strict=True):
        if not np.isfinite(value):
            arrays["status"][i] = store.RowStatus.NON_FINITE
            continue
        arrays["nll"][i], arrays["tokens"][i] = -value, one.supervised.sum()


def _end_of_turn(encoder: Encoder, rows: Sequence[Row]) -> int | None:
    """The special token that ends an answer, as the template writes it after a short one: no reference takes part.

    A reference may hold special tokens or be too long, which says nothing of the prompts. None if no row tells.
    """
    for row in rows:
        short = replace(row, messages=(*row.messages[:-1], replace(row.messages[-1], content="yes")))
        try:
            return encoder.end_of_turn(short)
        except RowError:
            continue
    return None
