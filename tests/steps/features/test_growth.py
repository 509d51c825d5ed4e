"""A pool that grows: only its new rows are computed, what was there keeps its bytes, and scores say what they saw."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from ntkcli.api import score
from ntkcli.errors import SpecError
from ntkcli.steps.features.featurize import FeaturizeResult, featurize
from ntkcli.steps.selections.select import select
from ntkcli.steps.shared import token_counts
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli, cli
from tests.conftest import prompt_rows, write_rows
from tests.store.kit import tree

__all__ = ["cli"]

SHORT, LONG = 37, 47
ROWS = prompt_rows(LONG)


def run(path: Path, model: Path, n: int = LONG, **changes: Any) -> FeaturizeResult:
    data = write_rows(path.parent / "pool.jsonl", ROWS[:n]) if "data" not in changes else changes.pop("data")
    settings = {"data": data, "name": "pool", "kind": "ntk", "model": str(model), "dim": 64, "part_rows": 8}
    return featurize(path, **(settings | {"batch_tokens": 256} | changes))


def parts_of(path: Path, feature: str = "ntk") -> dict[str, bytes]:
    """The chunks and records of the parts that had all their rows before."""
    files = {file: data for file, data in tree(path).items() if file.startswith(f"features/pool/{feature}/")}
    whole = {str(i) for i in range(SHORT // 8)}
    return {file: data for file, data in files.items() if "/c/" in file and file.split("/c/")[1].split("/")[0] in whole}


@pytest.fixture(scope="module")
def grown_from(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    """A store with features of the first 37 rows, counted in parts of 16."""
    path = tmp_path_factory.mktemp("short") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_counts, "PART_ROWS", 16)
        run(path, model_dir, SHORT)
    return path


@pytest.fixture
def short(grown_from: Path, tmp_path: Path) -> Path:
    """The same in a place of its own, with its file."""
    shutil.copytree(grown_from.parent, tmp_path / "own")
    return tmp_path / "own" / "s"


def test_ten_rows_more(short: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, old = parts_of(short), open_store(short).get("features/pool/ntk").read("sketch")
    counted: list[int] = []
    count = token_counts._count
    monkeypatch.setattr(token_counts, "_count", lambda row, whole: counted.append(row.index) or count(row, whole))
    monkeypatch.setattr(token_counts, "PART_ROWS", 16)
    result = run(short, model_dir)
    assert (result.rows, result.computed, result.complete) == (LONG, LONG - SHORT, True)
    assert counted == list(range(32, LONG))  # whole parts of counts are taken over
    assert before
    assert before.items() <= parts_of(short).items()
    stored = open_store(short)
    features = stored.get("features/pool/ntk")
    np.testing.assert_array_equal(features.read("sketch")[:SHORT], old)
    run(tmp_path / "fresh" / "s", model_dir, data=short.parent / "pool.jsonl")
    fresh = open_store(tmp_path / "fresh" / "s")
    assert features.fingerprint == fresh.get("features/pool/ntk").fingerprint
    for array in ("sketch", "norm", "tokens", "status"):
        np.testing.assert_allclose(
            features.read(array).astype(np.float64), fresh.get("features/pool/ntk").read(array), atol=1e-3, rtol=1e-3
        )
    for array in ("row_id", "source", "status"):
        np.testing.assert_array_equal(stored.get("datasets/pool").read(array), fresh.get("datasets/pool").read(array))
    assert list(stored.names([store.Kind.TOKENS])) == list(fresh.names([store.Kind.TOKENS]))
    assert store.check(stored).findings == ()
    again = run(short, model_dir)
    assert (again.computed, again.digest) == (0, result.digest)


def test_the_estimate_is_of_new_rows(short: Path, model_dir: Path, cli: Cli) -> None:
    """Of a pool that grew, of features that were begun, and of those that are finished; nothing is written."""
    data = write_rows(short.parent / "pool.jsonl", ROWS)
    words = ["featurize", short, "--data", data, "--name", "pool", "--kind", "ntk", "--dim", "64"]
    words += ["--model", model_dir, "--device", "cpu"]

    def estimated(*more: str) -> dict[str, Any]:
        ran = cli(*words, "--dry-run", "--json", *more)
        assert ran.code == 0, ran.err
        return dict(json.loads(ran.out))

    before = tree(short)
    grown, fresh = estimated(), estimated("--feature", "fresh")
    assert (grown["rows"], grown["there"]) == (LONG - SHORT, SHORT)
    assert (fresh["rows"], fresh["there"]) == (LONG, 0)
    assert grown["disk_bytes"] * LONG == fresh["disk_bytes"] * (LONG - SHORT)
    assert (estimated("--seed", "1")["rows"], estimated("--probe", "sum")["there"]) == (LONG, 0)  # other features
    assert tree(short) == before
    result = run(short, model_dir)
    assert grown["tokens"] == result.tokens
    assert (estimated()["rows"], estimated()["tokens"], estimated()["there"]) == (0, 0, LONG)
    assert f"0 rows ({LONG} more are there already)" in cli(*words, "--dry-run").out
    part = {"feature": "part", "shard": (0, 2)}
    done = run(short, model_dir, **part).computed
    assert (estimated("--feature", "part")["rows"], estimated("--feature", "part")["there"]) == (LONG - done, done)


def test_shards_of_a_pool_that_grew(short: Path, model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(short.parent, tmp_path / "one")
    whole = run(tmp_path / "one" / "s", model_dir)
    results = [run(short, model_dir, shard=(i, 3)) for i in (1, 0, 2)]
    assert sum(each.computed for each in results) == LONG - SHORT
    assert results[-1].complete
    assert results[-1].digest == whole.digest


KILL = """
import os, signal, sys
from store.parts import Parts
write, left = Parts.write_part, [int(sys.argv[1])]
def killed(self, i, arrays):
    if self.name.startswith("features/"):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    write(self, i, arrays)
Parts.write_part = killed
from ntkcli.app import main
main(sys.argv[2:])
"""


def test_killed_while_it_grows(short: Path, model_dir: Path, tmp_path: Path) -> None:
    """Before the first new part, and before the second; the rows that were there are there, and the end is the same."""
    shutil.copytree(short.parent, tmp_path / "one")
    run(tmp_path / "one" / "s", model_dir)
    data = write_rows(short.parent / "pool.jsonl", ROWS)
    before = parts_of(short)
    words = ["featurize", str(short), "--data", str(data), "--name", "pool", "--kind", "ntk", "--dim", "64"]
    words += ["--part-rows", "8", "--batch-tokens", "256", "--model", str(model_dir)]
    for parts in ("0", "1"):
        ended = subprocess.run([sys.executable, "-c", KILL, parts, *words], capture_output=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        stored = open_store(short)
        features = stored.get("features/pool/ntk")
        assert features.done()[: SHORT // 8].all()
        assert before.items() <= parts_of(short).items()
        assert store.check(stored).findings == ()
    run(short, model_dir)
    sides = [tree(each) for each in (short, tmp_path / "one" / "s")]
    files = [{file: data for file, data in side.items() if "/c/" in file} for side in sides]
    assert files[0] == files[1]


@pytest.mark.parametrize("change", ["content", "id", "swapped", "fewer"])
def test_rows_that_changed_are_refused(change: str, short: Path, model_dir: Path) -> None:
    rows = [dict(row) for row in ROWS]
    if change == "content":
        rows[17]["prompt"] += " changed"
    elif change == "id":
        rows[17]["id"] = "other"
    elif change == "swapped":
        rows[17], rows[18] = rows[18], rows[17]
    else:
        rows = rows[:30]
    data, before = write_rows(short.parent / "pool.jsonl", rows), tree(short)
    with pytest.raises(SpecError, match=r"data set 'pool' .* holds other rows") as refused:
        run(short, model_dir, data=data)
    assert "Rows may be appended" in refused.value.fix
    assert ("row 18 is the first whose id differs" in refused.value.what) is (change in ("id", "swapped"))
    assert tree(short) == before


def test_scores_and_selections_are_of_the_pool_they_saw(short: Path, model_dir: Path, cli: Cli) -> None:
    domain = write_rows(short.parent / "domain.jsonl", prompt_rows(5, seed=1))
    run(short, model_dir, data=domain, name="domain")
    run(short, model_dir, SHORT)  # its file is here now
    common = {"pool": "pool", "domain": "domain", "method": "mean"}
    score(short, name="s", **common)
    select(short, score="s", n=5, name="picked")
    write_rows(short.parent / "pool.jsonl", ROWS)
    ran = cli("select", short, "--score", "s", "-n", "5", "--name", "exported", "--export", short.parent / "x.jsonl")
    assert ran.code == 12
    assert "has 47 rows; the data set 'pool'" in ran.err
    assert "computes the new rows only" in ran.err
    embed = {"kind": "embed", "dim": 8192}
    run(short, model_dir, **embed)  # the data set grows, and the features ntk don't yet
    ran = cli("score", short, "--pool", "pool", "--domain", "domain", "--method", "mean", "--name", "t")
    assert ran.code == 12
    assert "features/pool/ntk holds the first 37 rows of datasets/pool, which has 47 now" in ran.err
    run(short, model_dir)
    again = ["score", short, "--pool", "pool", "--domain", "domain", "--method", "mean", "--name", "s"]
    for verb in (["select", short, "--score", "s", "-n", "5", "--name", "more"], again):
        ran = cli(*verb)
        assert ran.code == 12
        assert "scores/s saw the first 37 rows of datasets/pool, which has 47 now" in ran.err
        assert f"`ntksel rm {short} scores/s`" in ran.err
    stale = {each["name"]: each["stale"] for each in json.loads(cli("info", short, "--json").out)["artefacts"]}
    assert "the first 37 rows" in stale["scores/s"]
    assert "the first 37 rows" in stale["selections/picked"]
    score(short, name="all", **common)
    values = open_store(short).get("scores/all").read("score")
    assert values.shape == (LONG,)
    assert select(short, score="all", n=5, name="of-all").rows == 5


def test_a_text_score_lets_the_pool_grow(tmp_path: Path) -> None:
    """`score --pool NAME=FILE`, without features; and a data set that has rows of several parts."""
    data = write_rows(tmp_path / "p.jsonl", ROWS[:SHORT])
    assert score(tmp_path / "s", pool=f"pool={data}", method="random", name="r").rows == SHORT
    write_rows(data, ROWS)
    assert score(tmp_path / "s", pool=f"pool={data}", method="random", name="all").rows == LONG
    old, new = (open_store(tmp_path / "s").get(f"scores/{name}").read("score") for name in ("r", "all"))
    np.testing.assert_array_equal(new[:SHORT], old)
    assert os.listdir(tmp_path / "s" / "tmp") == []


def test_a_folder_that_gets_another_file(short: Path, model_dir: Path, tmp_path: Path) -> None:
    """Files of a folder are read by their names: one that comes last appends its rows."""
    folder = tmp_path / "files"
    folder.mkdir()
    write_rows(folder / "part-1.jsonl", ROWS[:SHORT])
    run(short, model_dir, data=folder)
    write_rows(folder / "part-2.jsonl", ROWS[SHORT:])
    assert run(short, model_dir, data=folder).computed == LONG - SHORT
    assert len(json.loads(json.dumps(open_store(short).get("features/pool/ntk").attrs["grew"]))) == 1


def test_several_files_as_one_pool(short: Path, model_dir: Path, cli: Cli) -> None:
    """`--data A --data B`: in this order; the same rows as in one file, and more behind what is known."""
    first = write_rows(short.parent / "a.jsonl", ROWS[:20])
    second = write_rows(short.parent / "b.jsonl", ROWS[20:SHORT])
    third = write_rows(short.parent / "c + d.jsonl", ROWS[SHORT:])
    words = ["featurize", short, "--name", "pool", "--kind", "ntk", "--dim", "64", "--batch-tokens", "256"]
    words += ["--model", model_dir, "--json", "--data", first, "--data", second]
    known = cli(*words)
    assert known.code == 0, known.err
    assert json.loads(known.out)["computed"] == 0  # the rows of the file that it was made from
    ran = cli(*words, "--data", third)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["computed"] == LONG - SHORT
    assert open_store(short).get("datasets/pool").attrs["source"] == f"{first} + {second} + {third}"
    score(short, pool="pool", domain="pool", method="dsir", name="words")  # reads all of them again
    swapped = cli(*words[:-3], second, "--data", first, "--data", third)
    assert swapped.code == 12
    assert "row 1 is the first whose id differs" in swapped.err
    second.unlink()
    gone = cli("score", short, "--pool", "pool", "--domain", "pool", "--method", "bm25", "--name", "x")
    assert gone.code == 2
    assert "is gone" in gone.err
