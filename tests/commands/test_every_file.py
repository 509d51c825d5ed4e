"""Every file of a store with all kinds of artefacts, removed, cut, altered and swapped: found, named and mended."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import store
from ntkcli.app import run
from ntkcli.steps.upkeep.verify import VerifyResult, verify
from store.layout import PLACES
from tests.conftest import choice_rows, prompt_rows, write_rows

UNCHECKED = {"checkpoints", "reports", "tmp", ".lock", "lock", "README.md"}
"""Work in flight, and what is for people and not read again."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[Path]:
    """A store with a run, features, a score, a selection and an eval, most of them in several parts."""
    files = tmp_path_factory.mktemp("data")
    pool, domain = (write_rows(files / f"{name}.jsonl", prompt_rows(9, seed=i)) for i, name in enumerate("pd"))
    test = write_rows(files / "test.jsonl", choice_rows(3))
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        med, on = Path(folder) / "med", ["--model", model_dir]
        features = ["--kind", "ntk", *on, "--dim", "16", "--part-rows", "5", "--store-dtype", "int8"]
        for command in (
            ["finetune", med, *on, "--train", domain, "--name", "warmup", "--epochs", "2", "--rank", "1"],
            ["featurize", med, "--data", pool, "--name", "pool", *features],
            ["featurize", med, "--data", domain, "--name", "domain", *features],
            ["score", med, "--pool", "pool", "--domain", "domain", "--method", "cosine", "--name", "s"],
            ["select", med, "--score", "s", "-n", "4", "--name", "c", "--leaks", "ignore"],
            ["eval", med, *on, "--task", test, "--name", "e", "--run", "base", "--run", "warmup"],
        ):
            assert run([str(word) for word in command]) == 0
        yield med


def files_of(med: Path) -> dict[str, bytes]:
    names = {str(path.relative_to(med)): path for path in sorted(med.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if not UNCHECKED & set(Path(name).parts)}


@contextmanager
def copy_of(whole: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=whole.parent) as folder:
        yield Path(shutil.copytree(whole, Path(folder) / "med"))


def redo(med: Path, whole: Path) -> None:
    """What the commands named do: write the parts that are not done, and the seal that is not there."""
    known = store.Store.open(whole)
    for artefact in store.Store.open(med).artefacts():
        good = known.get(artefact.name)
        for i in artefact.pending():
            artefact.write_part(i, {array: good.read(array, *good.part_bounds(i)) for array in good.arrays})
    for name in ("adapter_config.json", "adapter_model.safetensors", "ntksel.json"):
        if not (med / "adapters/warmup/ntksel.json").exists():
            shutil.copy(whole / "adapters/warmup" / name, med / "adapters/warmup" / name)


def look(med: Path, *, repair: bool = False) -> VerifyResult | str:
    """What is found, or the one line of the error that keeps the store from being opened."""
    try:
        return verify(med, repair=repair)
    except store.DamagedError as error:
        return str(error)


def owner(file: str) -> str:
    """The artefact that the file belongs to, or the file itself."""
    first, *parts = Path(file).parts
    if first == "adapters":
        return "runs/warmup"
    depth = 1 + dict(PLACES.values()).get(parts[0] if parts else "", 0)
    return "/".join(parts[:depth]) if 1 < depth < len(parts) else file


def rounds(damages: Sequence[Sequence[str]]) -> list[list[Sequence[str]]]:
    """Damages to do together: none to what another touches too, and those to no artefact each alone."""
    made: list[list[Sequence[str]]] = []
    for files in damages:
        owners = {owner(file) for file in files}
        free = (each for each in made if not owners & {owner(file) for damage in each for file in damage})
        alone = any(owner(file) == file for file in files)
        together = None if alone else next((each for each in free if owner(each[0][0]) != each[0][0]), None)
        if together is None:
            made.append([files])
        else:
            together.append(files)
    return made


def check(med: Path, whole: Path, damaged: Sequence[Sequence[str]]) -> None:
    """Damages are found, each tells where, are repaired, and the commands named mend the rest."""
    found = look(med)
    told = found if isinstance(found, str) else "\n".join([*(f.what for f in found.findings), *found.unfinished])
    for files in damaged:
        assert any(owner(file) in told for file in files), f"{files}: {told or 'nothing was found'}"
    repaired = look(med, repair=True)
    assert isinstance(repaired, VerifyResult)
    assert repaired.sound, repaired
    redo(med, whole)
    after = verify(med)
    assert (after.findings, after.unfinished) == ((), ()), f"{damaged}: {after}"
    assert files_of(med) == files_of(whole), damaged


def remove(path: Path, draw: random.Random) -> None:
    path.unlink()


def cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size - 1))


def flip(path: Path, draw: random.Random) -> None:
    """One bit anywhere. (In a JSON document none is without meaning but the line feed at its end.)"""
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data) - 1)] ^= 1 << draw.randrange(7)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [remove, cut, flip])
def test_every_file(whole: Path, damage: Callable[[Path, random.Random], None]) -> None:
    names, draw = list(files_of(whole)), random.Random(3)
    assert len(names) > 100
    for together in rounds([[name] for name in names]):
        with copy_of(whole) as med:
            for (name,) in together:
                damage(med / name, draw)
            check(med, whole, together)


def test_every_file_swapped_with_its_like(whole: Path) -> None:
    """With the next part of its array, or the next file of its name: both are whole, and in the wrong place."""
    contents = files_of(whole)
    alike: dict[str, list[str]] = {}
    for name in contents:
        alike.setdefault("record or chunk" if "c" in Path(name).parts else Path(name).name, []).append(name)
    pairs = [pair for names in alike.values() for pair in itertools.pairwise(names)]
    for together in rounds([pair for pair in pairs if contents[pair[0]] != contents[pair[1]]]):
        with copy_of(whole) as med:
            for one, other in together:
                (med / one).write_bytes(contents[other]), (med / other).write_bytes(contents[one])
            check(med, whole, together)
