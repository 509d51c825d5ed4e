"""Scores of losses that features hold: the drop, and kernels times the residual, against dense products in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.api import score, scores
from ntkcli.errors import UsageError
from ntkcli.scoring.losses import drops
from ntkcli.steps.selections.explain import explain
from ntkcli.steps.selections.select import select
from ntkcli.steps.shared.stores import open_store
from tests.scoring.kit import add_features, cosines, make_store

Made = tuple[Path, np.ndarray, np.ndarray, dict[str, np.ndarray]]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Features `kept` of the pool hold losses, those of the domain none, which need not."""
    path, pool, domain = make_store(tmp_path)
    draw = np.random.default_rng(3)
    losses = {
        "loss": draw.uniform(0.1, 3, 60),
        "loss_before": draw.uniform(0.1, 3, 60),
        "residual": draw.uniform(0, 2**0.5, 60),
    }
    for values in losses.values():
        values[5] = np.nan
    add_features(path, "pool", pool, feature="kept", missing=[5], losses=losses)
    add_features(path, "domain", domain, feature="kept")
    return path, pool, domain, losses


def values(path: Path, name: str) -> np.ndarray:
    return np.asarray(open_store(path).get(f"scores/{name}").read("score"))


def test_drop_is_the_share_of_the_loss_that_the_warm_up_took_away(made: Made) -> None:
    path, _, _, losses = made
    found = score(path, pool="pool", method="drop", feature="kept", name="drop")
    expected = 1 - losses["loss"] / losses["loss_before"]
    np.testing.assert_allclose(values(path, "drop"), expected, rtol=1e-5, atol=1e-6)
    assert (found.scored, found.skipped) == (59, 0)
    select(path, score="drop", n=12, name="best")
    best = open_store(path).get("selections/best").read("row")
    assert best.tolist() == np.argsort(-np.nan_to_num(expected, nan=-9))[:12].tolist()
    score(path, pool="pool", method="drop", feature="kept", rows="best", name="some")
    assert np.flatnonzero(~np.isnan(values(path, "some"))).tolist() == sorted(best.tolist())
    np.testing.assert_array_equal(values(path, "some")[best], values(path, "drop")[best])


def test_a_loss_of_nothing_has_no_share() -> None:
    """Before the warm-up the model knew the row: what float32 leaves of its loss is not divided by."""
    before, loss = (np.array(side, dtype=np.float32) for side in ([0, 1e-8, 0, 2], [0, 0, 0.5, 0.5]))
    np.testing.assert_allclose(drops(before, loss), [0, 0.01, -5e5, 0.75], rtol=1e-5)


def dense(method: str, pool: np.ndarray, domain: np.ndarray, *, centre: bool) -> np.ndarray:
    """Kernel values without the weight, float64."""
    scored = np.delete(pool, 5, axis=0)
    if method == "mean":
        mean = scored.mean(axis=0) if centre else 0.0
        return np.asarray((pool - mean) @ (domain - mean).mean(axis=0))
    similar = cosines(domain, pool, centre_on=scored if centre else None)
    return np.asarray(similar.mean(axis=0) if method == "cosine" else similar.max(axis=0))


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("method", ["mean", "cosine", "max"])
def test_the_residual_weighs_the_kernel(method: str, centre: bool, made: Made) -> None:
    path, pool, domain, losses = made
    score(path, pool="pool", domain="domain", method=method, feature="kept", centre=centre, residual=True, name="x")
    expected = losses["residual"] * dense(method, pool, domain, centre=centre)
    np.testing.assert_allclose(values(path, "x"), expected, rtol=1e-4, atol=1e-5 * np.nanmax(np.abs(expected)))


@pytest.mark.parametrize(
    "how",
    [{"method": "gist"}, {"method": "mean", "whiten": 0.1}, {"method": "cosine", "group_by": "source"},
     {"method": "max", "group_by": "source", "across": "mean"}],
    ids=str,
)  # fmt: skip
def test_the_residual_weighs_every_form_of_a_kernel(how: dict[str, Any], made: Made) -> None:
    path, _, _, losses = made
    score(path, pool="pool", domain="domain", feature="kept", name="plain", **how)
    score(path, pool="pool", domain="domain", feature="kept", name="x", residual=True, **how)
    np.testing.assert_allclose(values(path, "x"), losses["residual"] * values(path, "plain"), rtol=1e-5, atol=1e-7)
    stored = open_store(path)
    assert stored.get("scores/x").spec == {**stored.get("scores/plain").spec, "residual": 1}


def test_several_methods_in_one_pass_are_what_each_is_alone(made: Made) -> None:
    """The residual goes to the methods that know it, the domain to those that compare with one."""
    path, *_ = made
    methods = {"a": "mean", "b": "votes", "c": "drop", "d": "cosine"}
    scores(path, pool="pool", domain="domain", feature="kept", methods=methods, residual=True, k=5)
    for name, method in methods.items():
        how: dict[str, Any] = {} if method == "drop" else {"domain": "domain", "residual": method in ("mean", "cosine")}
        how |= {"k": 5} if method == "votes" else {}
        alone = score(path, pool="pool", feature="kept", method=method, name=f"{name}-alone", **how)
        stored = open_store(path)
        assert stored.get(f"scores/{name}").spec == stored.get(f"scores/{name}-alone").spec
        assert stored.get(f"scores/{name}").digest() == alone.digest


def test_what_is_refused_and_the_fix(made: Made) -> None:
    path, pool, domain, losses = made
    fresh = {name: losses[name] for name in ("loss", "residual")}
    add_features(path, "pool", pool, feature="fresh", missing=[5], losses=fresh)
    for side, vectors in (("pool", pool), ("domain", domain)):
        add_features(path, side, vectors, feature="loss", missing=[5], losses=fresh, kind="loss")
    both: dict[str, Any] = {"pool": "pool", "name": "x"}
    for how, words in (
        ({"method": "drop", "feature": "embed"}, "features/pool/embed holds none.*featurize.*--losses"),
        ({"method": "drop", "feature": "fresh"}, "without an adapter.*--losses --adapter RUN"),
        ({"method": "drop", "feature": "kept", "domain": "domain"}, "--domain means nothing to --method drop"),
        ({"method": "drop", "feature": "kept", "centre": True}, "--centre means nothing to --method drop"),
        ({"method": "drop", "feature": "kept", "residual": True}, "--residual means nothing to --method drop"),
        ({"method": "votes", "feature": "kept", "domain": "domain", "residual": True}, "mean, cosine, max, gist"),
        ({"method": "mean", "feature": "embed", "domain": "domain", "residual": True}, "--residual needs.*--losses"),
        ({"method": "mean", "feature": "loss", "domain": "domain", "residual": True}, "twice.*--kind ntk"),
    ):
        with pytest.raises(UsageError, match=words):
            score(path, **both, **how)
    score(path, **both, method="cosine", feature="loss", domain="domain", residual=True)


def test_a_drop_compares_no_features(made: Made) -> None:
    """It reads losses that lie beside features: a selector must be told what to compare, an explanation shows none."""
    path, *_ = made
    score(path, pool="pool", method="drop", feature="kept", name="drop")
    select(path, score="drop", n=6, name="top")
    assert explain(path, selection="top", row="1-0").nearest == ()
    with pytest.raises(UsageError, match="--feature NAME and --domain DATA"):
        select(path, score="drop", n=6, method="herding", name="y")
    select(path, score="drop", n=6, method="herding", feature="kept", domain=["domain"], name="y")
    assert len(explain(path, selection="y", row="1-0").nearest) == 3
