"""Several scores in one pass: each as it is alone, from one reading of the features, in any number of threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import store
from ntkcli import feature_encoding
from ntkcli.api import score, scores
from ntkcli.errors import UsageError
from ntkcli.scoring.features import FeatureReader
from ntkcli.scoring.passes import one_pass
from ntkcli.scoring.similarity import MeanKernel, cosine_scores
from ntkcli.steps.shared.stores import open_store, write_rows
from tests.scoring.kit import make_store

SHARED = ("mean", "cosine", "max", "gist", "votes", "rds")


@pytest.mark.parametrize("how", [{}, {"centre": True, "whiten": 0.1}, {"group_by": "source", "centre": True}])
def test_each_is_what_it_is_alone(how: dict[str, object], tmp_path: Path) -> None:
    """Fingerprint and bytes, also of bm25, which reads no features."""
    methods = {f"{method}-s": method for method in (*SHARED, "bm25")}
    paths = [tmp_path / "alone", tmp_path / "together"]
    for path in paths:
        path.mkdir()
    stores = [make_store(path)[0] for path in paths]
    options = {"pool": "pool", "domain": "domain", "feature": "embed", **how}
    for name, method in methods.items():
        own = {key: value for key, value in options.items() if method != "bm25" or key not in ("centre", "whiten")}
        score(stores[0], name=name, method=method, **own, **({"k": 4} if method in ("votes", "rds") else {}))  # type: ignore[arg-type]
    found = scores(stores[1], methods=methods, k=4, **options)  # type: ignore[arg-type]
    assert [each.artefact for each in found] == [f"scores/{name}" for name in methods]
    for name in methods:
        alone, together = (open_store(path).get(f"scores/{name}") for path in stores)
        assert alone.spec == together.spec
        assert alone.digest() == together.digest()
        assert alone.parents == together.parents
        for array in ("score", "similarity"):
            np.testing.assert_array_equal(alone.read(array), together.read(array))


def test_the_pool_is_read_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, *_ = make_store(tmp_path)
    read: Counter[tuple[str, int]] = Counter()
    before = store.Artefact.read_part_into

    def counted(self: store.Artefact, buffers: Mapping[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
        if self.name == "features/pool/embed":
            read.update((array, i) for array in buffers if array == "embedding")
        return before(self, buffers, i)

    monkeypatch.setattr(store.Artefact, "read_part_into", counted)
    scores(path, pool="pool", domain="domain", feature="embed", methods={f"{m}-s": m for m in SHARED})
    assert set(read.values()) == {1}
    assert len(read) == 4
    scores(path, pool="pool", domain="domain", feature="embed", methods={"a": "mean", "b": "cosine"}, centre=True)
    assert set(read.values()) == {3}  # and once more for the mean


def test_finished_ones_are_left_and_the_others_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, *_ = make_store(tmp_path)
    how = {"pool": "pool", "domain": "domain", "feature": "embed"}
    first = score(path, name="a", method="cosine", **how)  # type: ignore[arg-type]
    written = []
    before = store.Artefact.write_part
    monkeypatch.setattr(
        store.Artefact, "write_part", lambda self, *args: (written.append(self.name), before(self, *args))[1]
    )
    found = scores(path, methods={"a": "cosine", "b": "max"}, **how)  # type: ignore[arg-type]
    assert set(written) == {"scores/b"}
    assert found[0].digest == first.digest
    assert found[1].scored == 59
    with pytest.raises(store.SpecDiffersError, match="scores/b"):
        scores(path, methods={"c": "mean", "b": "cosine"}, **how)  # type: ignore[arg-type]
    assert open_store(path).find("scores/c") is None


def test_an_option_that_no_method_knows_is_refused(tmp_path: Path) -> None:
    path, *_ = make_store(tmp_path)
    how = {"pool": "pool", "domain": "domain", "feature": "embed"}
    with pytest.raises(UsageError, match="-k does not apply to --method mean, max"):
        scores(path, methods={"a": "mean", "b": "max"}, k=3, **how)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="twice"):
        scores(path, methods={"a": "mean", "b": "mean"}, **how)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="takes one --feature"):
        scores(path, methods={"a": "mean", "b": "less"}, pool="pool", domain="domain", feature=["x", "y"])


def kept_as(path: Path, name: str, unit: np.ndarray, norm: np.ndarray, *, dtype: str, part_rows: int) -> store.Artefact:
    arrays = feature_encoding.arrays("sketch", unit.shape[1], dtype) | {"norm": store.ArraySpec("float32")}
    artefact = store.Store.open_or_create(path, made_by="test").create(
        f"features/{name}/ntk", kind="features", spec={}, parents={}, n=len(unit), part_rows=part_rows, arrays=arrays
    )
    write_rows(artefact, {**feature_encoding.encode(unit, "sketch", dtype), "norm": norm})
    return artefact


@pytest.mark.parametrize("part_rows", [16, 700])
@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_stored_formats_against_dense_products(
    dtype: str, part_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of one span and of many, spans of several blocks, blocks of several pieces, in three threads."""
    monkeypatch.setattr("ntkcli.scoring.features.CACHED_BYTES", 3 * 4 * 24)
    monkeypatch.setattr("ntkcli.scoring.features.MANY_ROWS", 20)
    monkeypatch.setattr("ntkcli.scoring.features.SPAN_BYTES", 40 * 4 * 24)
    monkeypatch.setattr("ntkcli.scoring.features.workers", lambda _: 3)
    draw = np.random.default_rng(0)
    unit = draw.normal(size=(1500, 24)).astype(np.float32) + 0.3
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    norm = np.exp(draw.normal(size=1500)).astype(np.float32)
    norm[[7, 800]] = np.nan
    pool = kept_as(tmp_path / "s", "pool", unit, norm, dtype=dtype, part_rows=part_rows)
    domain = kept_as(tmp_path / "s", "domain", unit[:40], norm[8:48], dtype=dtype, part_rows=part_rows)
    held = {name: pool.read(name) for name in pool.arrays}
    x = feature_encoding.decode(held, "sketch").astype(np.float64)
    a, there = x[:40], np.isfinite(norm)
    seen: list[int] = []
    sides = FeatureReader(pool, n=1500, on_block=seen.append), [FeatureReader(domain, n=40)]
    raw, of_domain = norm[:, None].astype(np.float64) * x, norm[8:48, None].astype(np.float64) * a
    shift = raw[there].mean(axis=0)
    expected = (raw - shift) @ (of_domain.mean(axis=0) - shift)
    kernel = MeanKernel(*sides, centre=True)
    one_pass(sides[0], by_piece=[kernel])
    np.testing.assert_allclose(kernel.scores[:, 0], expected, rtol=2e-5, atol=2e-5)
    shift = x[there].mean(axis=0)
    u, v = ((side - shift) / np.linalg.norm(side - shift, axis=1, keepdims=True) for side in (x, a))
    expected = np.where(there, u @ v.mean(axis=0), np.nan)
    np.testing.assert_allclose(cosine_scores(*sides, centre=True)[:, 0], expected, atol=3e-6)
    assert sum(seen) == 3 * 1500  # the mean is kept
    blocks = [block.rows for block in sides[0].blocks()]
    assert max(map(len, blocks)) == min(part_rows, 20)
    np.testing.assert_array_equal(np.concatenate(blocks), np.flatnonzero(there))
    np.testing.assert_array_equal(sides[0].unit_rows(), x[there].astype(np.float32))


def test_values_do_not_depend_on_the_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = set()
    for threads in (1, 2, 5):
        monkeypatch.setattr("ntkcli.scoring.features.workers", lambda _, threads=threads: threads)
        (tmp_path / str(threads)).mkdir()
        path, *_ = make_store(tmp_path / str(threads), n=200)
        methods = {f"{method}-s": method for method in SHARED}
        found = scores(path, pool="pool", domain="domain", feature="embed", methods=methods, centre=True)
        digests.add(tuple(each.digest for each in found))
    assert len(digests) == 1
