"""By what rows are counted: never by whatever the store happens to hold, always said in the spec, refused if open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from ntkcli.api import score
from ntkcli.data import DataFile, Encoder, Row
from ntkcli.engine.models.loading import load_tokenizer
from ntkcli.errors import IncompleteError, UsageError
from ntkcli.identity import resolve_model
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.scores.combine import combine
from ntkcli.steps.selections.select import Constraints, select
from ntkcli.steps.shared.lengths import Encoding, lengths, settle_encoding
from ntkcli.steps.shared.stores import open_store
from tests.conftest import prompt_rows, write_rows

CUT = 40
N = 24


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("pool") / "pool.jsonl", prompt_rows(N, seed=3))


@pytest.fixture
def path(tmp_path: Path, pool: Path, model_dir: Path) -> Path:
    """A store whose pool is featurized whole, and a score by chance."""
    make(tmp_path / "s", pool, model_dir, "embed", 1024)
    score(tmp_path / "s", pool="pool", name="chance", method="random")
    return tmp_path / "s"


def make(path: Path, pool: Path, model: Path, feature: str, max_length: int, **more: Any) -> None:
    given = {"data": pool, "name": "pool", "kind": "embed", "model": str(model), **more}
    featurize(path, feature=feature, max_length=max_length, **given)


def by_hand(pool: Path, model: Path, max_length: int = 10**6) -> np.ndarray:
    """One row after the other through the encoder."""
    encoder = Encoder(load_tokenizer(resolve_model(str(model))), max_length=max_length)
    return np.array([len(encoder.encode(row)) for row in DataFile(pool).rows() if isinstance(row, Row)])


def take(path: Path, name: str, score: str = "chance", **limits: Any) -> tuple[list[int], str, dict[str, Any]]:
    select(path, score=score, n=None if "token_budget" in limits else 4, name=name, constraints=Constraints(**limits))
    artefact = open_store(path).get(f"selections/{name}")
    return artefact.read("row").tolist(), artefact.fingerprint, artefact.spec


def test_other_features_never_change_rows_under_one_fingerprint(path: Path, pool: Path, model_dir: Path) -> None:
    """The report: the same command, the same fingerprint, other rows, because another feature was the widest."""
    whole, fingerprint, spec = take(path, "a", token_budget=300)
    assert spec["tokens"]["encoder"]["max_length"] == 1024
    make(path, pool, model_dir, "zz", CUT)
    with pytest.raises(UsageError, match=r"--token-budget .* 2 ways .*zz: rows cut at 40.*--tokens-of FEATURE"):
        take(path, "b", token_budget=300)
    assert take(path, "a", token_budget=300) == (whole, fingerprint, spec)  # what was made stands
    cut, other, _ = take(path, "b", token_budget=300, tokens_of="zz")
    assert cut != whole
    assert other != fingerprint
    assert take(path, "c", token_budget=300, tokens_of="embed")[:2] == (whole, fingerprint)
    with pytest.raises(store.SpecDiffersError, match=r"tokens\.encoder\.max_length was 1024, is now 40"):
        take(path, "a", token_budget=300, tokens_of="zz")


@pytest.mark.parametrize("limits", [{"token_budget": 200}, {"min_tokens": 20}, {"max_tokens": 80}])
def test_a_scores_own_features_decide(limits: dict[str, int], path: Path, pool: Path, model_dir: Path) -> None:
    make(path, pool, model_dir, "aa", CUT)
    how = {"pool": "pool", "domain": "pool", "method": "mean"}
    score(path, name="whole", feature="embed", **how)
    score(path, name="cut", feature="aa", **how)
    combine(path, name="both", scores=["whole", "chance"])
    assert take(path, "w", "whole", **limits)[2]["tokens"]["encoder"]["max_length"] == 1024
    assert take(path, "b", "both", **limits)[2]["tokens"]["encoder"]["max_length"] == 1024
    combine(path, name="mixed", scores=["whole", "cut"])
    with pytest.raises(UsageError, match="in 2 ways"):
        take(path, "m", "mixed", **limits)
    open_store(path).remove("features/pool/embed")
    with pytest.raises(IncompleteError, match=r"features/pool/embed, which is gone.*--tokens-of MODEL"):
        take(path, "gone", "whole", **limits)


def test_rows_of_a_preselection_are_counted_as_it_was_made(path: Path, pool: Path, model_dir: Path) -> None:
    make(path, pool, model_dir, "aa", CUT)
    score(path, pool="pool", domain="pool", name="first", feature="aa", method="mean")
    select(path, score="first", n=12, name="coarse")
    score(path, pool="pool", name="drawn", method="random", rows="coarse")
    assert take(path, "d", "drawn", max_tokens=CUT)[2]["tokens"]["encoder"]["max_length"] == CUT


def test_a_model_counts_whole_rows(path: Path, pool: Path, model_dir: Path) -> None:
    make(path, pool, model_dir, "zz", CUT)
    least = int(np.sort(by_hand(pool, model_dir))[-5])
    rows, _, spec = take(path, "m", min_tokens=least, tokens_of=str(model_dir))
    assert "max_length" not in spec["tokens"]["encoder"]
    assert (by_hand(pool, model_dir)[rows] >= least).all()
    with pytest.raises(UsageError, match=r"'pool' has no features of that name.*zz"):
        take(path, "x", min_tokens=3, tokens_of="nothing")
    with pytest.raises(UsageError, match="--tokens-of /no/model: no such folder"):
        take(path, "x", min_tokens=3, tokens_of="/no/model")
    with pytest.raises(UsageError, match="nothing here counts any"):
        take(path, "x", tokens_of="zz")


def test_rows_that_no_feature_covers_are_counted_alike(path: Path, pool: Path, model_dir: Path) -> None:
    """Features of some rows, counts of none: the others are encoded as these were, in any order."""
    select(path, score="chance", n=5, name="few")
    make(path, pool, model_dir, "some", CUT, rows="few")
    stored = open_store(path)
    stored.remove("features/pool/embed")
    for name in list(stored.names([store.Kind.TOKENS])):
        stored.remove(name)
    encoding = settle_encoding(stored, "pool", option="--max-tokens", tokens_of=None)
    expected = by_hand(pool, model_dir, CUT)
    assert lengths(stored, "pool", encoding, np.arange(N)[::-1]).tolist() == expected.tolist()
    assert (expected == CUT).any()
    lost = Encoding("0" * 32, encoding.encoder)
    with pytest.raises(IncompleteError, match=f"{N} rows of 'pool' have no token counts"):
        lengths(stored, "pool", lost)


def test_match_length_counts_both_sides_alike(path: Path, pool: Path, model_dir: Path) -> None:
    make(path, pool, model_dir, "aa", CUT)
    how = {"pool": "pool", "method": "random"}
    score(path, pool="pool", domain="pool", name="first", feature="aa", method="mean")
    select(path, score="first", n=6, name="picked")
    score(path, name="like", match_length="picked", **how)
    assert open_store(path).get("scores/like").spec["tokens"]["encoder"]["max_length"] == CUT
    with pytest.raises(UsageError, match="--match-length counts tokens"):
        score(path, name="alike", match_length="pool", **how)
    assert open_store(path).find("scores/alike") is None
    score(path, name="alike", match_length="pool", tokens_of="aa", **how)
    with pytest.raises(store.SpecDiffersError, match=r"tokens\.encoder"):
        score(path, name="alike", match_length="pool", tokens_of="embed", **how)
    with pytest.raises(UsageError, match="Give --match-length"):
        score(path, name="plain", tokens_of="aa", **how)
