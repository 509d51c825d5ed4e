"""The study's tables from end to end, on a tiny model: recipes that run, a table, and the same table again."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import choice_rows, prompt_rows, write_rows

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "study" / "compare.py"
CHOICES = ("sum-cosine-centre", "herding", "preselect-none")
ARMS = ("domain", "domain-tokens", "random-length", "less", "sum-mean")


def test_main_table(tmp_path: Path, model_dir: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for task, seed in (("one", 1), ("two", 2)):
        write_rows(data / f"{task}-train.jsonl", choice_rows(8, seed=seed))
        write_rows(data / f"{task}-test.jsonl", choice_rows(6, seed=seed + 10))
    with gzip.open(data / "pool.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in prompt_rows(40))
    words = ["--data", str(data), "--folder", str(tmp_path / "study"), "--model", str(model_dir)]
    words += ["--domain", "4", "--times", "2", "--seeds", "0", "--task", "one"]
    choices = run("choices", *words, *arms(CHOICES), "--selections-only")
    for arm in CHOICES:
        assert f"\n| {arm} | " in choices, choices
    words += ["--task", "two"]
    words += arms(ARMS)
    first = run("main", *words)
    assert first.count("\n| domain-tokens | 1 |") == 3, first  # a table for each task, and their average
    for arm in ("base", *ARMS):
        assert f"\n| {arm} | 1 |" in first, first
    assert run("main", *words, "--table-only") == first


def arms(names: tuple[str, ...]) -> list[str]:
    return [word for name in names for word in ("--arm", name)]


def run(*words: str) -> str:
    """What the script prints, but for its first line, the environment."""
    ran = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.partition("\n")[2]
