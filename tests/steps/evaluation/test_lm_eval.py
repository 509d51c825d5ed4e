"""Tasks of lm-evaluation-harness against its own model class: the same likelihoods, metrics and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from ntkcli.errors import NtkselError
from ntkcli.steps.evaluation.evaluate import evaluate
from tests.commands.test_eval import make_adapter
from tests.conftest import Writer, choice_rows, prompt_rows

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")

CHOICES = """task: own_choices
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{prompt}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WRITTEN = """task: own_written
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: completion
generation_kwargs:
  until: ["e"]
  max_gen_toks: 8
  do_sample: false
metric_list:
  - metric: exact_match
"""


@pytest.fixture
def tasks(tmp_path: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = {"choices": write_jsonl("c.jsonl", choice_rows(12)), "written": write_jsonl("w.jsonl", prompt_rows(5))}
    paths = {}
    for name, text in (("choices", CHOICES), ("written", WRITTEN)):
        paths[name] = tmp_path / f"own_{name}.yaml"
        paths[name].write_text(text.format(data=data[name]))
    return paths


def by_the_harness(model: Path, adapter: Path | None, folder: Path, names: list[str]) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    peft = {"peft": str(adapter)} if adapter else {}
    own = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=1, max_length=1024, **peft)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found: dict[str, Any] = simple_evaluate(model=own, tasks=names, task_manager=manager, bootstrap_iters=0)
    return found


def test_equals_the_harness(tmp_path: Path, model_dir: Path, tasks: dict[str, Path]) -> None:
    """Log-likelihoods to 1e-4, metrics and written answers, for the base model and with an adapter."""
    from ntkcli.data import Encoder
    from ntkcli.engine.evaluation.evaluator import Evaluator
    from ntkcli.engine.evaluation.lm_eval import run_harness
    from ntkcli.engine.models.loading import load_model
    from ntkcli.identity import resolve_adapter, resolve_model
    from ntkcli.progress import Silent

    adapter = make_adapter(tmp_path / "a", model_dir, 0)
    identity = resolve_model(str(model_dir))
    loaded = load_model(identity, dtype="float32", device="cpu")
    evaluator = Evaluator(loaded, Encoder(loaded.tokenizer, max_length=1024), batch_tokens=None)
    sums = []
    for folder in (None, adapter):
        evaluator.use(resolve_adapter(str(folder), adapters=tmp_path) if folder else None, identity)
        ours = run_harness(evaluator, [str(path) for path in tasks.values()], max_length=1024, progress=Silent())
        theirs = by_the_harness(model_dir, folder, tmp_path, ["own_choices", "own_written"])
        for task in ("own_choices", "own_written"):
            mine, own = (
                sorted(found["samples"][task], key=lambda sample: sample["doc_id"]) for found in (ours, theirs)
            )
            assert [sample["doc_id"] for sample in mine] == [sample["doc_id"] for sample in own]
            if task == "own_written":
                assert [sample["resps"] for sample in mine] == [sample["resps"] for sample in own]
                continue
            pairs = [
                np.array([[float(value) for value, _ in choice] for sample in samples for choice in sample["resps"]])
                for samples in (mine, own)
            ]
            np.testing.assert_allclose(*pairs, atol=1e-4)
            greedy = [[choice[0][1] for sample in samples for choice in sample["resps"]] for samples in (mine, own)]
            assert greedy[0] == greedy[1]
            sums.append(pairs[0])
        for task in ("own_choices", "own_written"):
            numbers = {k: v for k, v in theirs["results"][task].items() if isinstance(v, float)}
            assert {k: ours["results"][task][k] for k in numbers} == pytest.approx(numbers)
    assert np.abs(sums[0] - sums[1]).max() > 1e-3, "the adapter is in use"


def test_eval_writes_the_harness_shape_and_compares(tmp_path: Path, model_dir: Path, tasks: dict[str, Path]) -> None:
    adapter = make_adapter(tmp_path / "a", model_dir, 0)
    file = tmp_path / "results.json"
    arguments: dict[str, Any] = {
        "model": str(model_dir),
        "run": ["base", str(adapter)],
        "task": [f"lm_eval:{path}" for path in tasks.values()],
        "name": "h",
        "export": file,
    }
    found = evaluate(tmp_path / "s", **arguments)
    totals = json.loads(file.read_text())
    values = {(score.task, score.arm): score.value for score in found.scores}
    for run in ("base", "a"):
        assert totals[run]["results"]["own_choices"]["acc,none"] == pytest.approx(values["own_choices", run])
        assert totals[run]["results"]["own_written"]["exact_match,none"] == pytest.approx(values["own_written", run])
    assert len(found.sentences) == 3
    assert found.items == 17
    group = zarr.open_group(tmp_path / "s" / "arrays.zarr", mode="r")["evals/h/a"]
    assert group["value"][:12].mean() == pytest.approx(values["own_choices", "a"])
    assert evaluate(tmp_path / "s", **arguments) == found


def test_refused(tmp_path: Path, model_dir: Path, tasks: dict[str, Path], write_jsonl: Writer) -> None:
    plain = write_jsonl("plain.jsonl", choice_rows(3))
    known: dict[str, Any] = {"model": str(model_dir), "run": ["base"], "name": "h"}
    with pytest.raises(NtkselError, match=r"lm_eval has no such task.*lm-eval ls tasks"):
        evaluate(tmp_path / "s", task=["lm_eval:no_such_task"], **known)
    with pytest.raises(NtkselError, match=r"can't be in one eval.*--name"):
        evaluate(tmp_path / "s", task=[f"lm_eval:{tasks['choices']}", str(plain)], **known)
    lost = tmp_path / "own_lost.yaml"
    lost.write_text(CHOICES.format(data=tmp_path / "gone.jsonl").replace("own_choices", "own_lost"))
    with pytest.raises(NtkselError, match=r"lm_eval can't run it"):
        evaluate(tmp_path / "s", task=[f"lm_eval:{lost}"], **known)
