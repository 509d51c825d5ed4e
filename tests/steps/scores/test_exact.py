"""The exact score against the mean score of exact gradients, and the sketch against both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ntkcli.api import score
from ntkcli.data.encoding import VERSION as ENCODER_VERSION
from ntkcli.errors import SpecError
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune
from tests.conftest import Writer, prompt_rows

CASES: dict[str, dict[str, Any]] = {
    "sum": {"kind": "ntk"},
    "centred, 3 probes": {"kind": "ntk", "probe": "centred", "probes": 3},
    "loss": {"kind": "loss"},
    "upper layer": {"kind": "ntk", "layers": "last:1"},
}


@pytest.mark.parametrize("case", list(CASES))
def test_exact(case: str, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    options = CASES[case]
    store = tmp_path / "s"
    domain, pool = write_jsonl("d.jsonl", prompt_rows(12, seed=1)), write_jsonl("p.jsonl", prompt_rows(40, seed=2))
    finetune(store, model=str(model_dir), train=[str(domain)], name="warm", epochs=1, rank=2)
    shared = {"model": str(model_dir), "adapter": "warm", "seed": 3, **options}
    for projection in ("none", "sjlt"):
        for name, data in (("d", domain), ("p", pool)):
            featurize(store, data=data, name=name, feature=projection, projection=projection, **shared)
        score(store, pool="p", domain="d", method="mean", feature=projection, name=projection)
    score(store, pool="p", domain="d", method="exact", feature="sjlt", name="exact")
    values = {name: open_store(store).get(f"scores/{name}").read("score") for name in ("none", "sjlt", "exact")}
    if options.get("probes", 1) == 1:  # several probes are mixed by random signs: then only their mean is the kernel
        np.testing.assert_allclose(values["exact"], values["none"], rtol=2e-2, atol=2e-3 * np.abs(values["none"]).max())
    assert stats.spearmanr(values["exact"], values["sjlt"]).statistic > 0.95
    again = score(store, pool="p", domain="d", method="exact", feature="sjlt", name="exact")
    assert again.scored == 40


def test_exact_refuses_features_of_another_encoding(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own gradients would be of other tokens than the features, without a word in any spec."""
    store, data = tmp_path / "s", write_jsonl("d.jsonl", prompt_rows(4))
    featurize(store, data=data, name="d", kind="ntk", model=str(model_dir), dim=64)
    monkeypatch.setattr("ntkcli.steps.scores.remake.ENCODER_VERSION", ENCODER_VERSION + 1)
    with pytest.raises(SpecError, match=f"encoded in another way than today .version {ENCODER_VERSION}.*Featurize"):
        score(store, pool="d", domain="d", method="exact", name="x")


def test_exact_refuses_an_adapter_that_changed(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    store = tmp_path / "s"
    data = write_jsonl("d.jsonl", prompt_rows(8))
    made = finetune(store, model=str(model_dir), train=[str(data)], name="warm", epochs=1)
    featurize(store, data=data, name="d", kind="ntk", model=str(model_dir), adapter="warm", dim=64)
    weights = Path(made.adapter) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(SpecError, match="has changed since"):
        score(store, pool="d", domain="d", method="exact", name="x")
