"""Every closed list of choices is in `ntkcli/choices.py`, and what is keyed by one has all of it."""

from __future__ import annotations

import ast
from enum import StrEnum
from pathlib import Path

import pytest

import ntkcli
from ntkcli import choices
from ntkcli.engine.models.devices import DTYPES
from ntkcli.engine.training.train import SCHEDULES
from ntkcli.errors import UsageError
from ntkcli.kernel_presets import PRESETS
from ntkcli.steps.features.arrays import PART_ROWS
from ntkcli.steps.features.settings import DEFAULT_POSITIONS
from ntkcli.steps.selections.export import _FORMATS, _SHAPES

PACKAGE = Path(ntkcli.__file__).parent
ENUMS = [each for each in vars(choices).values() if isinstance(each, type) and issubclass(each, StrEnum)]
LISTS = {frozenset(each) for each in ENUMS if len(each) > 2 and each is not StrEnum}


def test_no_second_list_of_the_same_words() -> None:
    """A tuple, list or set of strings in the code that holds exactly the words of an enum is a second list of them."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                words = [each.value for each in node.elts if isinstance(each, ast.Constant)]
                if len(words) == len(node.elts) and frozenset(words) in LISTS:
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert not found


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (DTYPES, set(choices.Dtype) - {"auto"}),
        (SCHEDULES, set(choices.Schedule)),
        (PRESETS, set(choices.Preset)),
        (PART_ROWS, set(choices.Kind)),
        (DEFAULT_POSITIONS, set(choices.Kind)),
        (_FORMATS, set(choices.Format)),
        (_SHAPES, set(choices.Format) - {"own"}),
    ],
)
def test_tables_have_every_choice(table: dict[str, object], kind: set[str]) -> None:
    assert set(table) == kind


def test_an_unknown_word_is_refused_with_the_list() -> None:
    assert choices.checked(choices.OnError, "skip", "--on-error") is choices.OnError.SKIP
    with pytest.raises(UsageError, match=r"--schedule fast is not known\. Give one of: cosine, linear, constant\."):
        choices.checked(choices.Schedule, "fast", "--schedule")
