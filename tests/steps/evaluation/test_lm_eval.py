"""Tasks of lm-evaluation-harness against its own model class: the same likelihoods, metrics and answers."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr

import store
from ntkcli.engine.evaluation.lm_eval import HarnessModel
from ntkcli.engine.evaluation.lm_eval_run import run_harness
from ntkcli.engine.evaluation.lm_eval_tasks import TaskOptions, load_harness_tasks
from ntkcli.identity import resolve_adapter, resolve_model
from ntkcli.progress import Silent
from ntkcli.steps.evaluation.evaluate import evaluate
from ntkcli.steps.shared.stores import open_store
from tests.commands.test_eval import make_adapter
from tests.conftest import make_tokenizer
from tests.steps.evaluation.lm_eval_kit import BRIER, by_the_harness, write_task, write_tasks

LENGTH = 256
"""Of a prompt: the longest text of the made data needs more, so there are windows."""
WANTED = ["group", "written", "likelihood", "rolling"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapter") / "a", model_dir, 0)


@pytest.fixture(scope="module")
def evaluator(model_dir: Path) -> Any:
    from ntkcli.data import Encoder
    from ntkcli.engine.evaluation.evaluator import Evaluator
    from ntkcli.engine.models.loading import load_model

    loaded = load_model(resolve_model(str(model_dir)), dtype="float32", device="cpu")
    return Evaluator(loaded, Encoder(loaded.tokenizer, max_length=LENGTH), batch_tokens=None)


@pytest.fixture(scope="module")
def theirs(model_dir: Path, adapter: Path) -> dict[str, Any]:
    """lm_eval's own model class, without an adapter and with it."""
    from lm_eval.models.huggingface import HFLM

    def load(**peft: str) -> Any:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft's, of transformers' next version
            return HFLM(pretrained=str(model_dir), dtype="float32", device="cpu", max_length=LENGTH, **peft)

    return {"base": load(), "a": load(peft=str(adapter))}


def use(evaluator: Any, run: str, adapter: Path, model: Path) -> None:
    found = None if run == "base" else resolve_adapter(str(adapter), adapters=adapter)
    evaluator.use(found, resolve_model(str(model)))


@pytest.mark.parametrize(
    "options", [{}, {"num_fewshot": 2, "limit": 3}, {"num_fewshot": 1, "limit": 4, "apply_chat_template": True}]
)
def test_equals_the_harness(
    model_dir: Path, adapter: Path, evaluator: Any, theirs: dict[str, Any], folder: Path, options: dict[str, Any]
) -> None:
    """Prompts, answers, metrics of all kinds of tasks, and a group's value; a likelihood to 1e-4."""
    settings = TaskOptions(**options)
    tasks = load_harness_tasks([str(folder / f"own_{kind}.yaml") for kind in WANTED], [], settings, trust=False)
    values = {}
    for run, other in theirs.items():
        use(evaluator, run, adapter, model_dir)
        ours = run_harness(evaluator, tasks, settings, max_length=LENGTH, progress=Silent())
        expected = by_the_harness(other, folder, [f"own_{kind}" for kind in WANTED], **options)
        for task, samples in expected["samples"].items():
            mine, own = (sorted(each, key=lambda one: one["doc_id"]) for each in (ours.samples[task], samples))
            assert [one["arguments"] for one in mine] == [one["arguments"] for one in own]
            for one, other_one in zip(mine, own, strict=True):
                assert numbers_of(one["resps"]) == pytest.approx(numbers_of(other_one["resps"]), abs=1e-4)
        assert ours.results["n-shot"] == expected["n-shot"]
        for name, found in expected["results"].items():
            numbers = {key: value for key, value in found.items() if isinstance(value, float)}
            assert numbers
            assert {key: ours.results["results"][name][key] for key in numbers} == pytest.approx(numbers, rel=1e-4)
        for task, items in ours.items.items():
            mean = float(items.weight @ items.value / items.weight.sum())
            metric = expected["results"][task][f"{items.metric.name},none"]
            assert (math.exp(mean) if items.metric.perplexity else mean) == pytest.approx(metric, rel=1e-4)
        values[run] = {task: items.value for task, items in ours.items.items()}
    assert np.abs(values["base"]["own_likelihood"] - values["a"]["own_likelihood"]).max() > 1e-3, "the adapter counts"


def numbers_of(answers: Any) -> Any:
    """Likelihoods as floats (the harness logs them as text), written answers as they are."""
    if isinstance(answers, list | tuple):
        return [number for each in answers for number in numbers_of(each)]
    return [float(answers)] if isinstance(answers, bool | float) else [hash(answers)]


def test_groups_directions_and_averages(tmp_path: Path, model_dir: Path, adapter: Path, folder: Path) -> None:
    """All tasks of a group count alike in the average; what is better lower says so; a second call returns at once."""
    brier = write_task(tmp_path, "brier", BRIER)
    file = tmp_path / "results.json"
    arguments: dict[str, Any] = {
        "model": str(model_dir),
        "run": ["base", str(adapter)],
        "task": [f"lm_eval:{folder}/own_group.yaml", f"lm_eval:{folder}/own_rolling.yaml"],
        "retain": [f"lm_eval:{brier}"],
        "name": "h",
        "export": file,
        "max_length": LENGTH,
    }
    found = evaluate(tmp_path / "s", **arguments)
    assert found.retained == ("own_brier",)
    totals = json.loads(file.read_text())
    scores = {(score.task, score.arm): score for score in found.scores}
    for run in ("base", "a"):
        value = {task: score.value for (task, arm), score in scores.items() if arm == run}
        results = totals[run]["results"]
        assert value["own_choices"] == pytest.approx(results["own_choices"]["acc,none"])
        assert value["own_group"] == pytest.approx(results["own_group"]["acc,none"]), "by size, as the group has it"
        assert value["average"] == pytest.approx((value["own_choices"] + value["own_more"]) / 2)
        assert value["own_brier"] == pytest.approx(results["own_brier"]["brier_score,none"])
        assert math.exp(value["own_rolling"]) == pytest.approx(results["own_rolling"]["word_perplexity,none"])
    measures = {(one.task, one.run): one.measures for one in found.runs}
    assert measures["own_rolling", "a"]["word_perplexity"] == pytest.approx(
        totals["a"]["results"]["own_rolling"]["word_perplexity,none"]
    )
    worse = scores["own_rolling", "a"]
    assert not worse.higher_is_better
    assert not scores["own_brier", "a"].higher_is_better
    assert worse.difference is not None
    assert worse.difference.low > 0, "the random adapter raises perplexity"
    (sentence,) = (each for each in found.sentences if "own_rolling" in each)
    assert sentence.startswith("a is worse than base on own_rolling")
    assert "nats a word" in sentence
    group = zarr.open_group(tmp_path / "s" / "arrays.zarr", mode="r")["evals/h/a"]
    assert group["value"][:12].mean() == pytest.approx(scores["own_choices", "a"].value)
    assert evaluate(tmp_path / "s", **arguments) == found

    again = {**arguments, "task": arguments["task"][:1], "retain": [arguments["task"][1], *arguments["retain"]]}
    assert evaluate(tmp_path / "s", **again).retained == ("own_rolling", "own_brier"), "no value depends on it"
    for changed in ({"limit": 3}, {"num_fewshot": 1}, {"apply_chat_template": True}, {"max_length": 300}):
        with pytest.raises(store.SpecDiffersError, match=f"{next(iter(changed))} was") as refused:
            evaluate(tmp_path / "s", **{**arguments, **changed, "run": ["base"]})
        assert "tasks" not in str(refused.value), "which are the same"
    (tmp_path / "b").mkdir()
    shutil.copytree(adapter, tmp_path / "b" / "other")
    with pytest.raises(store.SpecDiffersError, match="limit"):  # another run of the same table
        evaluate(tmp_path / "s", **{**arguments, "limit": 3, "run": [str(tmp_path / "b" / "other")]})


def test_items_cut_and_items_without_a_number(
    tmp_path: Path, model_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {
        "model": str(model_dir),
        "run": ["base"],
        "task": [f"lm_eval:{folder}/own_likelihood.yaml", f"lm_eval:{folder}/own_written.yaml"],
        "max_length": 32,
    }
    assert 1 <= evaluate(tmp_path / "s", name="cut", **arguments).truncated < 10

    whole = HarnessModel._loglikelihood_tokens

    def broken(self: Any, requests: Any, **options: Any) -> Any:
        return [(math.nan, False), *whole(self, requests, **options)[1:]]

    monkeypatch.setattr(HarnessModel, "_loglikelihood_tokens", broken)
    found = evaluate(tmp_path / "s", name="nan", **{**arguments, "max_length": LENGTH})
    assert found.skipped == 1
    assert all(math.isfinite(score.value) for score in found.scores)
    artefact = open_store(tmp_path / "s").get("evals/nan/base")
    assert artefact.read("status")[0] == store.RowStatus.NON_FINITE
    assert artefact.attrs["results"]["results"]["own_likelihood"]["perplexity,none"] is None


def test_what_the_engine_raises_is_not_the_tasks(
    tmp_path: Path, model_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("of the engine")

    monkeypatch.setattr(HarnessModel, "_loglikelihood_tokens", broken)
    with pytest.raises(RuntimeError, match="of the engine"):
        evaluate(
            tmp_path / "s", model=str(model_dir), run=["base"], task=[f"lm_eval:{folder}/own_rolling.yaml"], name="h"
        )


def test_an_answer_without_a_token_before_it_counts_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """White space before an answer goes to it; without a context then, nothing would predict its first token."""
    tokenizer = make_tokenizer()
    evaluator: Any = SimpleNamespace(loaded=SimpleNamespace(tokenizer=tokenizer))
    model = HarnessModel(evaluator, max_length=32, progress=Silent())
    asked: list[Any] = []
    monkeypatch.setattr(model, "_loglikelihood_tokens", asked.extend)
    model.loglikelihood([SimpleNamespace(args=(context, "a"), task_name="t", doc_id=0) for context in ("", " ", "b")])
    space, a, b = tokenizer.encode(" ab")
    assert [pair for _, *pair in asked] == [
        [[tokenizer.bos_token_id], [a]],
        [[tokenizer.bos_token_id], [space, a]],
        [[b], [a]],
    ]
    request = SimpleNamespace(args=("",), task_name="t", doc_id=0)
    assert model._prompt(request, 8).ids.tolist() == [tokenizer.bos_token_id]


def test_export_of_items(tmp_path: Path, model_dir: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line per item with its metric; stdout stays the command's own, and no bar of the harness is drawn."""
    file = tmp_path / "items.jsonl"
    evaluate(
        tmp_path / "s",
        model=str(model_dir),
        run=["base"],
        task=[f"lm_eval:{folder}/own_more.yaml"],
        name="h",
        limit=3,
        export=file,
    )
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["metric"] for line in lines] == ["acc"] * 3
    assert {line["run"] for line in lines} == {"base"}
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "it/s" not in shown.err.replace("Loading weights", "").replace("Writing model", "")
