"""Kernel, sketch, stability and regression with tiny models, against dense computations, and interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from ntkcli.data import DataFile, Encoder, Row
from ntkcli.engine.gradients.probes import LogitProbe
from ntkcli.engine.models import loading
from ntkcli.engine.models.adapters import fresh_adapter
from ntkcli.engine.training.checkpoints import kept_steps
from ntkcli.errors import UsageError
from ntkcli.identity import resolve_model
from ntkcli.progress import Silent
from ntkcli.scoring.features import FeatureReader
from ntkcli.statistics.correlation import spearman
from ntkcli.statistics.kernels import forms, pool_scores
from ntkcli.steps.diagnosis.diagnose import costs, diagnose
from ntkcli.steps.diagnosis.findings import Check
from ntkcli.steps.evaluation.evaluate import evaluate
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune, finetune_seeds
from tests.conftest import prompt_rows, write_rows
from tests.engine.kit import trace_kernels

DOMAIN, POOL = 4, 8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    return {
        "pool": str(write_rows(folder / "pool.jsonl", prompt_rows(POOL, seed=1))),
        "domain": str(write_rows(folder / "domain.jsonl", prompt_rows(DOMAIN, seed=2))),
    }


class Stop(Silent):
    """Interrupts after so much work."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, count: int, *, tokens: int = 0, note: str = "") -> None:
        del tokens, note
        self.left -= count
        if self.left < 0:
            raise KeyboardInterrupt


def by_subject(store_path: Path, check: str, **given: Any) -> dict[str, Check]:
    found, panels = diagnose(store_path, check=check, **given)
    assert panels
    return {one.subject: one for one in found.checks}


def test_kernel_is_the_dense_computation_and_goes_on(
    tmp_path: Path, model_dir: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"check": "kernel", "model": str(model_dir), **files}
    assert costs(tmp_path / "s", **given).costs[0].passes == 32 + 1 + 16 + 1
    assert not (tmp_path / "s").exists()
    with pytest.raises(KeyboardInterrupt):
        diagnose(tmp_path / "s", progress=Stop(40), **given)
    (name,) = [each.name for each in open_store(tmp_path / "s").artefacts()]
    assert open_store(tmp_path / "s").get(name).rows_done() == 32
    found = by_subject(tmp_path / "s", **given)
    whole = by_subject(tmp_path / "whole", **given)
    assert found == whole

    identity = resolve_model(str(model_dir))
    loaded = loading.load_model(identity, dtype="float32", device="cpu")
    encoder = Encoder(loaded.tokenizer, max_length=128)
    rows = [
        encoder.encode(row)
        for path in (files["domain"], files["pool"])
        for row in DataFile(path).rows()
        if isinstance(row, Row)
    ]
    layers = fresh_adapter(loaded.model, rank=16, target_modules="all-linear", seed=0)
    draws = [LogitProbe(loaded.model, "centred", seed=0, number=k) for k in range(8)]
    trace, centred, total, others = trace_kernels(loaded, layers, rows, draws)
    above = np.triu_indices(len(rows), k=1)

    def pearson(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.corrcoef(a[above], b[above])[0, 1])

    assert found["sum"].value == pytest.approx(pearson(total, centred), abs=1e-4)
    assert found["sum"].details["pearson_trace"] == pytest.approx(pearson(total, trace), abs=1e-4)
    each = [pearson(one, centred) for one in others]
    assert found["centred"].value == pytest.approx(np.mean(each), abs=1e-4)
    assert found["centred"].details["lowest"] == pytest.approx(min(each), abs=1e-4)
    vocabulary = len(loading.head_of(loaded.model).weight)
    assert found["one direction"].value == pytest.approx(np.trace(total) / vocabulary / np.trace(trace), rel=1e-4)
    assert all(one.low <= one.value + 1e-9 and one.value <= one.high + 1e-9 for one in found.values())
    best = max(("sum", "rademacher", "centred"), key=lambda probe: found[probe].value)
    assert found[f"take {best}"].sentence.startswith(f"Take --probe {best}")
    monkeypatch.setattr(loading, "load_model", None)  # a finished one needs none
    assert by_subject(tmp_path / "s", **given) == found


def test_larger_sketches_come_nearer(tmp_path: Path, model_dir: Path, files: dict[str, str]) -> None:
    found, panels = diagnose(
        tmp_path / "s", check="sketch", model=str(model_dir), dims=(16, 1 << 15), batch_tokens=200, **files
    )
    assert not (tmp_path / "s").exists()  # nothing is kept of a pass over a few rows
    small, large = found.checks
    assert (small.subject, large.subject) == ("p = 16", "p = 32768")
    assert small.value > 3 * large.value
    assert large.value < 0.1
    assert small.details["spearman"] < large.details["spearman"]
    assert large.low <= large.value <= large.high
    assert len(panels) == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model_dir: Path, files: dict[str, str]) -> Path:
    """A store with runs of two seeds that kept their checkpoints."""
    store_path = tmp_path_factory.mktemp("trained") / "s"
    finetune_seeds(
        store_path, name="r", seeds=[0, 1], model=str(model_dir), train=[files["domain"]], lr=2e-2, epochs=4,
        batch_size=2, checkpoint_steps=2, rank=2, keep_checkpoints=True,
    )  # fmt: skip
    return store_path


def test_stability_is_what_features_of_the_kept_adapters_give(
    trained: Path, model_dir: Path, files: dict[str, str]
) -> None:
    found = by_subject(trained, "stability", run=("r",), dim=512, **files)
    assert found.keys() == {"r.s0", "r.s1", "runs"}
    check = found["r.s0"]
    assert [one["steps"] for one in check.details["checkpoints"]] == [4, 6, 8]
    kernels = {}
    for steps in (2, 8):
        rows = []
        for side in ("domain", "pool"):
            feature = f"step-{steps}"
            featurize(
                trained, data=files[side], name=side, kind="ntk", model=str(model_dir), feature=feature, dim=512,
                probe="centred", adapter=str(kept_steps(trained / "adapters/r.s0")[steps]), store_dtype="float32",
            )  # fmt: skip
            made = open_store(trained).get(f"features/{side}/{feature}")
            rows += [block.unit * block.norm[:, None] for block in FeatureReader(made, n=made.n).blocks()]
        raw = np.concatenate(rows)
        kernels[steps] = raw @ raw.T
    domain, pool = np.arange(DOMAIN), np.arange(DOMAIN, DOMAIN + POOL)
    one, other = (pool_scores(forms(kernels[steps], pool)["centred"], domain=domain, pool=pool) for steps in (2, 8))
    assert check.value == pytest.approx(spearman(one, other), abs=0.03)
    assert check.value < 1
    assert found["runs"].details["runs"] == ["r.s0", "r.s1"]
    assert -1 <= found["runs"].low <= found["runs"].value <= found["runs"].high <= 1


def test_a_run_is_stable_against_its_copy(trained: Path, tmp_path: Path, files: dict[str, str]) -> None:
    shutil.copytree(trained, tmp_path / "s")
    stored = open_store(tmp_path / "s")
    model = str(stored.get("runs/r.s0").attrs["model"])
    finetune(tmp_path / "s", name="copy", model=model, train=[files["domain"]], lr=2e-2, epochs=4, batch_size=2, rank=2)
    found = by_subject(tmp_path / "s", "stability", run=("r.s0", "copy"), dim=512, **files)
    assert found["runs"].value == pytest.approx(1.0)
    assert found["runs"].details["pairs"][0]["cos_f"] == pytest.approx(1.0)
    with pytest.raises(UsageError, match=r"kept no checkpoints to compare.*--keep-checkpoints"):
        diagnose(tmp_path / "s", check="stability", run=("copy",), **files)


def weights(path: Path) -> dict[str, Any]:
    return dict(safetensors.torch.load_file(path / "adapter_model.safetensors"))


def test_checkpoints_are_kept_also_of_a_finished_run_and_of_one_that_was_interrupted(
    trained: Path, tmp_path: Path, model_dir: Path, files: dict[str, str]
) -> None:
    given: dict[str, Any] = {
        "model": str(model_dir), "train": [files["domain"]], "lr": 2e-2, "epochs": 4, "batch_size": 2, "rank": 2,
        "checkpoint_steps": 2,
    }  # fmt: skip
    at_once = kept_steps(trained / "adapters/r.s0")
    assert list(at_once) == [0, 2, 4, 6, 8]
    start = weights(at_once[0])
    assert all(bool((value == 0).all()) for name, value in start.items() if "lora_B" in name)
    final = (trained / "adapters/r.s0/adapter_model.safetensors").read_bytes()
    assert (at_once[8] / "adapter_model.safetensors").read_bytes() == final

    first = finetune(tmp_path / "s", name="r", **given)
    folder = tmp_path / "s/adapters/r"
    assert kept_steps(folder) == {}
    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path / "s", name="r", **given, keep_checkpoints=True, progress=Stop(5))
    assert list(kept_steps(folder)) == [0, 2, 4]
    assert finetune(tmp_path / "s", name="r", **given, keep_checkpoints=True) == first
    for steps, path in kept_steps(folder).items():
        assert (path / "adapter_model.safetensors").read_bytes() == (
            at_once[steps] / "adapter_model.safetensors"
        ).read_bytes()
    assert list(kept_steps(folder)) == list(at_once)


def class_rows(n: int, *, seed: int) -> list[dict[str, Any]]:
    """Rows whose class stands in their prompt many times."""
    draw = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        answer = int(draw.integers(2))
        word = ("aaaa", "zzzz")[answer]
        prompt = " ".join([word] * int(draw.integers(3, 8)))
        rows.append({"id": f"{seed}-{i}", "prompt": prompt, "choices": ["red", "blue"], "answer": answer})
    return rows


def test_regression_learns_classes_and_is_compared_with_the_evals_answers(tmp_path: Path, model_dir: Path) -> None:
    domain, test = (
        str(write_rows(tmp_path / f"{name}.jsonl", class_rows(n, seed=seed)))
        for name, n, seed in (("domain", 24, 1), ("test", 30, 2))
    )
    finetune(tmp_path / "s", name="r", model=str(model_dir), train=[domain], epochs=1, rank=2)
    evaluate(tmp_path / "s", name="e", run=["r"], model=str(model_dir), task=[test])
    given: dict[str, Any] = {"domain": domain, "run": ("r",), "eval_name": "e", "dim": 512}
    found = by_subject(tmp_path / "s", "regression", **given)
    evaluated = open_store(tmp_path / "s").get("evals/e/r")
    difference, same = found["accuracy, minus the model's"], found["same answers"]
    assert difference.details["accuracy"] > 0.9
    assert difference.details["model_accuracy"] == pytest.approx(evaluated.read("correct").mean())
    assert difference.value == pytest.approx(difference.details["accuracy"] - difference.details["model_accuracy"])
    assert same.low <= same.value <= same.high
    write_rows(Path(test), class_rows(30, seed=3))
    with pytest.raises(Exception, match="from other items than its files hold"):
        diagnose(tmp_path / "s", check="regression", **given)
