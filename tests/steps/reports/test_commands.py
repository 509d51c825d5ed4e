"""The commands that a report rebuilds from specs: options that change a value are all there."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli.steps.reports.blocks import Commands
from ntkcli.steps.reports.collect import collect
from ntkcli.steps.reports.sections.commands import commands
from ntkcli.steps.shared.stores import open_store


def rebuilt(folder: Path, name: str, *, attrs: dict[str, Any], parents: tuple[str, ...] = (), **spec: Any) -> list[str]:
    """The words of the command of an artefact with this spec."""
    stored = open_store(folder / "med", create=True)
    of_parents = {}
    for each in (*parents, name):
        made = stored.create(
            each, kind=store.layout.kind_of(each), spec=spec if each == name else {"run": each}, parents=of_parents,
            n=1, part_rows=1, arrays={"loss": store.ArraySpec("float32")}, attrs=attrs,
        )  # fmt: skip
        made.write_part(0, {"loss": np.ones(1, np.float32)})
        of_parents = {each: made.fingerprint}
    blocks = commands(collect(stored))
    lines = [line for block in blocks if isinstance(block, Commands) for line in block.lines]
    return shlex.split(next(line for line in lines if f"--name {name.rpartition('/')[2]}" in line or "--run" in line))


def pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(zip(words, [*words[1:], ""], strict=True))


def test_a_training(tmp_path: Path) -> None:
    words = rebuilt(
        tmp_path, "runs/r", parents=("runs/warm",), attrs={"train": ["a.jsonl", "b.jsonl=2"], "model": "m"},
        encoder={"max_length": 65, "text_as": "raw"}, then=[{}], packed=1, init_adapter={"x": 1}, epochs=1,
        hold_out=0.1, checkpoint_steps=7,
    )  # fmt: skip
    told = pairs(words)
    assert ("--train", "a.jsonl") in told
    assert ("--then", "b.jsonl=2") in told
    assert words.count("--train") == 1
    assert {("--text-as", "raw"), ("--init-adapter", "warm"), ("--checkpoint-steps", "7")} <= set(told)
    assert "--pack" in words


def test_an_evaluation(tmp_path: Path) -> None:
    words = rebuilt(
        tmp_path, "evals/e/base", attrs={"files": ["t.jsonl"], "model": "m"},
        encoder={"max_length": 64, "thinking": False},
    )  # fmt: skip
    assert {("--max-length", "64"), ("--thinking", "off"), ("--run", "base")} <= set(pairs(words))


def test_a_selection(tmp_path: Path) -> None:
    words = rebuilt(
        tmp_path, "selections/c", attrs={"data": "pool"}, method="coverage", n=3, exponent=0.25, centre=True,
        candidates=50, exclude="digest",
    )  # fmt: skip
    assert {("--exponent", "0.25"), ("--candidates", "50"), ("--exclude", "ROWS")} <= set(pairs(words))
    assert "--centre" in words
