"""Agreement of scores against scipy, and what the command shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ntkcli.api import score
from ntkcli.errors import NtkselError
from ntkcli.steps.scores.agreement import compare_scores
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli, cli
from tests.scoring.kit import make_store

__all__ = ["cli"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path, *_ = make_store(tmp_path)
    for method, options in (("max", {}), ("votes", {"k": 5}), ("cosine", {})):
        score(path, pool="pool", domain="domain", method=method, feature="embed", name=method, **options)  # type: ignore[arg-type]
    score(path, pool="pool", method="random", name="random")
    return path


def test_against_scipy(path: Path) -> None:
    found = compare_scores(path, scores=["max", "votes", "random"], n=12)
    values = {name: open_store(path).get(f"scores/{name}").read("score") for name in ("max", "votes", "random")}
    assert [(pair.first, pair.second) for pair in found.pairs] == [
        ("max", "votes"),
        ("max", "random"),
        ("votes", "random"),
    ]
    good = np.delete(np.arange(60), 5)
    for pair in found.pairs:
        a, b = values[pair.first][good], values[pair.second][good]
        assert pair.rows == 59
        assert pair.spearman == pytest.approx(stats.spearmanr(a, b).statistic)
        assert pair.kendall == pytest.approx(stats.kendalltau(a, b).statistic)
    a, b = (set(good[np.argsort(-values[name][good])[:12]]) for name in ("max", "random"))
    assert found.pairs[1].overlap == pytest.approx(len(a & b) / 12)
    profile = found.scores[0]
    expected = stats.spearmanr(values["max"][good], (np.arange(60) % 7 + 1)[good]).statistic
    assert profile.length_correlation == pytest.approx(expected)
    assert profile.top_sources == {s: sum("abc"[i % 3] == s for i in a) for s in profile.top_sources}
    assert sum(profile.top_sources.values()) == 12
    assert list(profile.top_sources.values()) == sorted(profile.top_sources.values(), reverse=True)


def test_refusals(path: Path) -> None:
    score(path, pool="domain", method="random", name="other")
    for scores, n, text in (
        (["max"], None, "two different"),
        (["max", "other"], None, "same pool"),
        (["max", "random"], 60, "59 rows in common"),
    ):
        with pytest.raises(NtkselError, match=text):
            compare_scores(path, scores=scores, n=n)


def test_command_line(path: Path, cli: Cli) -> None:
    ran = cli("score", path, "--compare", "max", "--compare", "cosine", "-n", "10")
    assert ran.code == 0, ran.err
    assert "max · cosine" in ran.out
    assert "top 10 in common" in ran.out
    as_json = json.loads(cli("score", path, "--compare", "max", "--compare", "cosine", "--json").out)
    assert as_json["n"] == 6
    assert -1 <= as_json["pairs"][0]["kendall"] <= 1
    for more in (["--name", "x"], ["--method", "max"], ["--combine", "max"]):
        assert cli("score", path, "--compare", "max", "--compare", "cosine", *more).code == 2
    assert cli("score", path, "--combine", "max", "--combine", "cosine", "--name", "both").code == 0
    assert cli("score", path, "--combine", "max", "--name", "both").code == 2
    assert cli("score", path, "--pool", "pool", "--name", "y").code == 2
    ran = cli("score", path, "--pool", "pool", "--domain", "domain", "--group-by", "source", "--across", "mean",
              "--method", "bm25", "--name", "words")  # fmt: skip
    assert ran.code == 0, ran.err
