"""The fixes that a store's errors ask for, as commands: the store itself names none."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import store
from ntkcli.steps.shared.commands import making, message, worded
from store import fix
from store.layout import PLACES
from tests.store import kit

ROOT = Path(__file__).resolve().parents[3]


def test_the_store_names_no_command() -> None:
    for path in (ROOT / "store").glob("*.py"):
        assert not re.search("`ntksel ", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("datasets/pool", "featurize {} --name pool ..."),
        ("features/pool/ntk", "featurize {} --name pool --feature ntk ..."),
        ("tokens/pool/0a", "featurize {} --name pool ..."),
        ("scores/s", "score {} --name s ..."),
        ("selections/c", "select {} --name c ..."),
        ("runs/r", "finetune {} --name r ..."),
        ("evals/test/base", "eval {} --name test --run base ..."),
        ("diagnoses/kernel-0a1b", "diagnose {} kernel ..."),
    ],
)
def test_each_kind_has_the_command_that_makes_it(name: str, command: str) -> None:
    assert making(Path("med"), name) == f"`ntksel {command.format('med')}`"


def test_every_kind_has_a_command() -> None:
    for place, depth in PLACES.values():
        assert making(Path("med"), "/".join([place, *"abc"[:depth]])).startswith("`ntksel ")


def test_a_damaged_part_is_fixed_by_two_commands(tmp_path: Path) -> None:
    stored = store.Store.open_or_create(tmp_path / "a store", made_by="test")
    artefact = kit.fill(kit.make(stored))
    next(path for path in sorted((artefact.path / "norm/c").rglob("*")) if path.is_file()).unlink()
    with pytest.raises(store.DamagedError) as error:
        artefact.read("norm")
    here = f"'{tmp_path}/a store'"
    wanted = (
        f"; run `ntksel info {here} --repair`, which forgets that part, and then "
        f"`ntksel featurize {here} --name pool --feature ntk ...` again, which redoes it"
    )
    assert message(error.value).endswith(wanted)
    assert message(pickle.loads(pickle.dumps(error.value))) == message(error.value)  # noqa: S301
    assert "ntksel" not in str(error.value).replace(str(tmp_path), "")


def test_a_missing_store_is_made_by_featurize(tmp_path: Path) -> None:
    with pytest.raises(store.NoStoreError) as error:
        store.Store.open(tmp_path / "none")
    assert f"make one with `ntksel featurize {tmp_path}/none ...`, or give another path" in message(error.value)


def test_words_stay_as_they_are() -> None:
    assert worded("give another name") == "give another name"
    removed = fix.giving_up(Path("med"), "scores/s")
    assert worded(removed) == (
        "restore it from a copy, or give the artefact up: `ntksel rm med scores/s` and then "
        "`ntksel score med --name s ...` again"
    )
