"""A score split over a row's tokens: the parts add up to the stored score, for every kind of feature and score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.api import score
from ntkcli.errors import SpecError, UsageError
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.selections.explain_tokens import explain_tokens
from ntkcli.steps.selections.select import select
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune
from tests.commands.conftest import Cli, cli
from tests.conftest import prompt_rows, write_rows

__all__ = ["cli"]
FEATURES: dict[str, dict[str, Any]] = {
    "ntk": {"kind": "ntk", "adapter": "w", "losses": True},
    "probes": {"kind": "ntk", "probe": "centred", "probes": 2, "positions": "all", "layers": "last:1"},
    "loss": {"kind": "loss", "adapter": "w"},
    "embed": {"kind": "embed", "pooling": "weighted", "adapter": "w"},
}
SCORES: dict[str, dict[str, Any]] = {
    "mean": {"method": "mean", "feature": "ntk"},
    "mean, centred": {"method": "mean", "feature": "ntk", "centre": True},
    "cosine": {"method": "cosine", "feature": "ntk"},
    "cosine, centred": {"method": "cosine", "feature": "ntk", "centre": True},
    "residual": {"method": "cosine", "feature": "ntk", "centre": True, "residual": True},
    "whitened": {"method": "cosine", "feature": "ntk", "centre": True, "whiten": 0.3},
    "whitened mean": {"method": "mean", "feature": "ntk", "whiten": 0.3},
    "groups, max": {"method": "cosine", "feature": "ntk", "centre": True, "group_by": "source"},
    "groups, mean": {"method": "mean", "feature": "ntk", "domain": ["domain", "pool"], "across": "mean"},
    "probes": {"method": "cosine", "feature": "probes", "centre": True},
    "loss": {"method": "mean", "feature": "loss"},
    "embed": {"method": "cosine", "feature": "embed", "centre": True},
    "some rows": {"method": "cosine", "feature": "embed", "centre": True, "rows": "some"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    pool = write_rows(folder / "pool.jsonl", prompt_rows(14, seed=1))
    domain = write_rows(
        folder / "domain.jsonl", [{**r, "source": "ab"[i % 2]} for i, r in enumerate(prompt_rows(6, seed=2))]
    )
    path = folder / "s"
    finetune(path, model=str(model_dir), train=[str(domain)], name="w", rank=2, epochs=4, lr=1e-2, batch_size=2)
    for name, how in FEATURES.items():
        for data in (pool, domain):
            common = {"data": data, "name": data.stem, "model": str(model_dir), "dim": 96, "store_dtype": "float32"}
            featurize(path, feature=name, **common, **how)
    score(path, pool="pool", method="random", name="r")
    select(path, score="r", n=9, name="some")
    return path


@pytest.mark.parametrize("name", SCORES)
def test_the_parts_add_up_to_the_score(name: str, made: Path) -> None:
    plain = name.replace(" ", "-").replace(",", "")
    score(made, pool="pool", name=plain, **{"domain": "domain", **SCORES[name]})
    select(made, score=plain, n=3, name=plain)
    stored = open_store(made)
    values = stored.get(f"scores/{plain}").read("score")
    tokens = stored.get(f"features/pool/{SCORES[name]['feature']}").read("tokens")
    for row in stored.get(f"selections/{plain}").read("row")[:2].tolist():
        found = explain_tokens(made, selection=plain, row=str(row))
        parts = np.array([token.value for token in found.tokens])
        assert found.score == values[row]
        assert len(parts) == tokens[row]
        scale = np.abs(parts).sum() + abs(found.offset)
        np.testing.assert_allclose(parts.sum() + found.offset, found.score, rtol=1e-4, atol=1e-5 * scale)
        np.testing.assert_allclose([token.share for token in found.tokens], parts / np.abs(parts).sum(), rtol=1e-6)
        assert bool(found.offset) == SCORES[name].get("centre", False)
        text = "".join(token.text for token in found.tokens)
        assert f"1-{row}" == found.row_id
        assert "".join(t.text for t in found.tokens if t.supervised).endswith("<|im_end|>")
        assert text.startswith("<|im_start|>user")


def test_a_token_s_part_does_not_come_from_the_stored_sum(made: Path) -> None:
    """Two rows of one prompt and other answers: parts differ where the tokens do, and none is spread evenly."""
    score(made, pool="pool", domain="domain", method="cosine", feature="ntk", name="uneven")
    select(made, score="uneven", n=3, name="uneven")
    found = explain_tokens(made, selection="uneven", row="0")
    parts = np.array([token.value for token in found.tokens])
    assert parts.std() > 0.1 * np.abs(parts).mean()


def test_what_is_refused_and_the_fix(made: Path, tmp_path: Path) -> None:
    for method, how in (("max", {"domain": "domain"}), ("drop", {}), ("bm25", {"domain": "domain"})):
        given = {} if method == "bm25" else {"feature": "ntk"}
        score(made, pool="pool", method=method, name=method, **given, **how)
        select(made, score=method, n=2, name=method)
        with pytest.raises(UsageError, match=f"scores/{method} is of --method {method}.*--method cosine or mean"):
            explain_tokens(made, selection=method, row="0")
    score(made, pool="pool", domain="domain", method="mean", feature="embed", rows="some", name="few")
    select(made, score="few", n=2, name="few")
    left_out = next(i for i in range(14) if i not in open_store(made).get("selections/some").read("row"))
    with pytest.raises(UsageError, match=f"scores/few has no score of the row '{left_out}'"):
        explain_tokens(made, selection="few", row=str(left_out))
    with pytest.raises(UsageError, match="no row 'x-1'"):
        explain_tokens(made, selection="few", row="x-1")


def test_a_model_that_changed_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score(made, pool="pool", domain="domain", method="mean", feature="embed", name="old")
    select(made, score="old", n=2, name="old")
    monkeypatch.setattr("ntkcli.steps.features.settings.VERSION", 99)
    with pytest.raises(SpecError, match="another version of ntksel"):
        explain_tokens(made, selection="old", row="0")


def test_command_line(made: Path, cli: Cli) -> None:
    score(made, pool="pool", domain="domain", method="cosine", feature="ntk", centre=True, name="shown")
    select(made, score="shown", n=3, name="shown")
    ran = cli("explain", made, "shown", "1-2", "--tokens")
    assert ran.code == 0, ran.err
    assert "from its" in ran.out
    assert "the pool's mean" in ran.out
    assert "'<|im_end|>'" in ran.out
    header = next(line for line in ran.out.splitlines() if line.startswith("token "))
    assert header.split() == ["token", "position", "part", "predicts", "value", "share"]
    answer = prompt_rows(14, seed=1)[2]["completion"]
    first = next(line for line in ran.out.splitlines() if f" {answer[0]!r} " in line and "prompt" in line)
    assert first.startswith(r"'\n'")  # what opens the answer's turn predicts its first letter
    found = json.loads(cli("explain", made, "shown", "1-2", "--tokens", "--json", "--device", "cpu").out)
    assert found["offset"] + sum(token["value"] for token in found["tokens"]) == pytest.approx(found["score"], abs=1e-5)
    assert set(found["tokens"][0]) == {"position", "id", "text", "supervised", "value", "share"}
    ran = cli("explain", made, "shown", "1-2", "--device", "cpu")
    assert ran.code == 2
    assert "--device is for --tokens" in ran.error_line
