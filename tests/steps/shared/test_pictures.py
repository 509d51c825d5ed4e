"""Pictures of arms: what is drawn are the values and intervals given; files are checked before anything runs."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from ntkcli.errors import UsageError
from ntkcli.statistics import ArmScore
from ntkcli.statistics.arm_scores import Difference
from ntkcli.steps.shared import pictures
from ntkcli.steps.shared.outputs import Inputs


def scores() -> list[ArmScore]:
    difference = Difference(0.1, -0.02, 0.22, 0.1, 0.1, "bootstrap")
    return [
        ArmScore("random", "t", 0.5, 0.4, 0.6, 9, {"0": 0.5}, None, None),
        ArmScore("cost $x$", "t", 0.6, 0.52, 0.7, 9, {"0": 0.6}, None, difference),
    ]


def test_points_and_intervals_are_those_of_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    write = pictures.write_figure
    monkeypatch.setattr(pictures, "write_figure", lambda *a, **k: (drawn.append(a[1]), write(*a, **k))[1])
    groups = [("", "random", scores()), ("9 rows, ", "random", scores()[:1])]
    pictures.write_arms(tmp_path / "a.svg", groups, kind="arms")
    left, right, alone, nothing = drawn[0].axes
    lines = [line.get_xdata().tolist() for line in left.get_lines()]
    assert lines == [[40, 60], [50], pytest.approx([52, 70]), [60]]
    assert [line.get_xdata().tolist() for line in right.get_lines()[:2]] == [pytest.approx([-2, 22]), [10]]
    assert (len(alone.get_lines()), nothing.get_visible()) == (2, False)  # the baseline alone has no difference
    assert [text.get_text() for text in left.get_yticklabels()] == ["random", r"cost \$x\$"]
    assert (left.get_title(), alone.get_title(), right.get_title()) == ("t", "9 rows, t", "minus random")
    first = (tmp_path / "a.svg").read_bytes()
    pictures.write_arms(tmp_path / "b.svg", groups, kind="arms")
    assert (tmp_path / "b.svg").read_bytes() == first
    assert b"cost $x$" in first
    pictures.write_arms(tmp_path / "a.png", groups, kind="arms")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_can_not_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str, *, force: bool = False) -> None:
        pictures.check_picture(tmp_path / name, inputs=Inputs([], ()), stored=None, force=force)

    (tmp_path / "own.svg").write_text("mine")
    check("new.svg")
    check("own.svg", force=True)
    pictures.check_picture(None, inputs=Inputs([], ()), stored=None, force=False)
    for name, told in (("x.pdf", r"Give a name in .png or .svg"), ("own.svg", "--force"), ("no/x.png", "no folder")):
        with pytest.raises(UsageError, match=told):
            check(name)
    load = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "matplotlib":
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"needs the package matplotlib. pip install 'ntksel\[plot\]'"):
        check("new.svg")
