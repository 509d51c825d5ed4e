"""Tasks of lm-evaluation-harness in YAML with made data, one of each kind, and the harness's own model class."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.conftest import WORDS, choice_rows, prompt_rows, write_rows

HEAD = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}, train: {examples}}}
  cache_dir: {cache}
test_split: test
fewshot_split: train
"""
CHOICES = """output_type: multiple_choice
doc_to_text: "Question: {{prompt}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
WRITTEN = """output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: completion
generation_kwargs: {until: ["e"], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
LIKELIHOOD = """output_type: loglikelihood
doc_to_text: "{{prompt}}"
doc_to_target: completion
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
"""
ROLLING = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{prompt}} {{completion}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""
BRIER = """output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
"""
GROUP = """group: own_group
task: [own_choices, own_more]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: true}
"""
KINDS = {"choices": CHOICES, "more": CHOICES, "written": WRITTEN, "likelihood": LIKELIHOOD, "rolling": ROLLING}


def rows_of(kind: str, text: str) -> list[dict[str, Any]]:
    """12 questions with choices, 5 of `more`; 4 to be answered in writing; texts of many lengths else."""
    if "multiple_choice" in text:
        return choice_rows(5, seed=8) if kind == "more" else choice_rows(12)
    if "generate_until" in text:
        return prompt_rows(4)
    draw = random.Random(1)
    long = {"prompt": " ".join(draw.choices(WORDS, k=40)), "completion": " a longer answer", "id": "long"}
    return [{**row, "completion": f" {row['completion']}"} for row in prompt_rows(5, seed=2)] + [long]


def write_task(folder: Path, kind: str, text: str, **data: Path) -> Path:
    """`own_<kind>.yaml` with its rows beside it; `data` takes the place of test rows."""
    test = data.get("data") or write_rows(folder / f"{kind}.jsonl", rows_of(kind, text))
    examples = write_rows(folder / f"{kind}-train.jsonl", rows_of(kind, text)[::-1])
    path = folder / f"own_{kind}.yaml"
    path.write_text(
        HEAD.format(name=f"own_{kind}", data=test, examples=examples, cache=folder / "cache") + text, encoding="utf-8"
    )
    return path


def write_tasks(folder: Path) -> dict[str, Path]:
    """One task of each kind, and the group of `choices` and `more`."""
    folder.mkdir(exist_ok=True)
    paths = {kind: write_task(folder, kind, text) for kind, text in KINDS.items()}
    paths["group"] = folder / "own_group.yaml"
    paths["group"].write_text(GROUP, encoding="utf-8")
    return paths


def by_the_harness(model: Any, folder: Path, names: list[str], **options: Any) -> dict[str, Any]:
    """What lm-evaluation-harness finds by itself, with its own model class."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    with patch("lm_eval.evaluator.add_env_info"):  # seconds of looking around, for a report of the machine
        found: dict[str, Any] = simple_evaluate(
            model=model, tasks=names, task_manager=manager, bootstrap_iters=0, **options
        )
    return found
