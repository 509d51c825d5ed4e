"""Tasks of lm-evaluation-harness as they are found, checked and digested: no model is needed, and no network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntkcli.engine.evaluation import lm_eval_tasks
from ntkcli.engine.evaluation.lm_eval_code import PACKAGE
from ntkcli.engine.evaluation.lm_eval_tasks import TaskOptions, load_harness_tasks
from ntkcli.errors import NtkselError
from ntkcli.steps.evaluation.evaluate import evaluate
from tests.conftest import choice_rows, write_rows
from tests.steps.evaluation.lm_eval_kit import BRIER, CHOICES, LIKELIHOOD, WRITTEN, write_task, write_tasks

CODE = "doc_to_text: !function code.text\n"
ESCAPE = """doc_to_text: "{{ cycler.__init__.__globals__.os.system('touch ' ~ PLACE) }}"\n"""
BLEU = WRITTEN.replace("{metric: exact_match, aggregation: mean, ", "{metric: bleu, aggregation: bleu, ")


def digests(*files: Path, trust: bool = False, **options: Any) -> dict[str, str]:
    return load_harness_tasks([str(file) for file in files], [], TaskOptions(**options), trust=trust).digests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All tasks, and one that takes its questions' wording from a file that it includes."""
    folder = tmp_path / "tasks"
    paths = write_tasks(folder)
    words, rest = CHOICES.split("doc_to_choice", 1)
    (folder / "_words.yaml").write_text(words, encoding="utf-8")
    own = paths["more"].read_text().replace(CHOICES, f"include: _words.yaml\ndoc_to_choice{rest}")
    paths["more"].write_text(own, encoding="utf-8")
    return folder


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")

    return apply


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (edit("own_choices.yaml", "Question:", "Q:"), {"own_choices"}),
        (edit("own_choices.yaml", "acc_norm", "acc_bytes"), {"own_choices"}),
        (edit("_words.yaml", "Question:", "Q:"), {"own_more"}),
        (edit("own_group.yaml", "weight_by_size: true", "weight_by_size: false"), {"own_group"}),
        (edit("own_group.yaml", "own_choices,", "{task: own_choices, target_delimiter: _},"), {"own_choices"}),
        (edit("choices.jsonl", "red", "green"), {"own_choices"}),
        (lambda folder: write_rows(folder / "more.jsonl", choice_rows(6, seed=8)), {"own_more"}),
        (lambda folder: write_rows(folder / "more-train.jsonl", choice_rows(5, seed=7)), set()),
    ],
    ids=["wording", "metric", "include", "group", "override", "a word of the data", "a row more", "examples unused"],
)
def test_a_digest_is_of_the_content(folder: Path, change: Callable[[Path], None], changed: set[str]) -> None:
    before = digests(folder / "own_group.yaml")
    assert before.keys() == {"own_choices", "own_more", "own_group"}
    moved = folder.parent / "moved"
    shutil.copytree(folder, moved)
    for file in moved.glob("*.yaml"):
        file.write_text(file.read_text().replace(str(folder), str(moved)), encoding="utf-8")
    assert digests(moved / "own_group.yaml") == before, "a path is no content"
    change(moved)
    after = digests(moved / "own_group.yaml")
    assert {name for name in before if before[name] != after[name]} == changed


def test_examples_count_where_they_are_shown_and_rows_up_to_the_limit(folder: Path) -> None:
    task = folder / "own_more.yaml"
    shown, limited, whole = digests(task, num_fewshot=1), digests(task, limit=3), digests(task)
    assert len({shown["own_more"], limited["own_more"], whole["own_more"]}) == 3
    write_rows(folder / "more-train.jsonl", choice_rows(5, seed=7))
    assert digests(task, num_fewshot=1) != shown
    rows = choice_rows(5, seed=8)
    write_rows(folder / "more.jsonl", [*rows[:4], {**rows[4], "answer": 2 - int(rows[4]["answer"] == 2)}])
    assert digests(task, limit=3) == limited
    assert digests(task) != whole


def test_code_of_a_task_runs_only_when_trusted(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "ran"
    code = folder / "code.py"
    code.write_text(f"open({str(place)!r}, 'w').close()\n\ndef text(doc):\n    return doc['prompt']\n")
    own = write_task(folder, "code", CHOICES.replace('doc_to_text: "Question: {{prompt}}\\nAnswer:"\n', CODE))
    group = folder / "grp.yaml"
    group.write_text("group: grp\ntask: [own_code]\naggregate_metric_list: [{metric: acc}]\n")
    included = folder / "inc.yaml"
    included.write_text("include: own_code.yaml\ntask: own_included\n")
    for file in (own, group, included):
        with pytest.raises(NtkselError, match=r"own_code.yaml runs code.*!function code.text.*--trust-remote-code"):
            digests(file)
    assert not place.exists()
    before = digests(own, trust=True)
    assert place.exists()
    code.write_text(code.read_text().replace("doc['prompt']", "doc['prompt'] + '!'"))
    assert digests(own, trust=True) != before, "code is content"
    for line in ("{metric: ./evil.py, aggregation: mean", "{metric: acc, hf_evaluate: true, aggregation: mean"):
        elsewhere = write_task(folder, "elsewhere", CHOICES.replace("{metric: acc, aggregation: mean", line, 1))
        with pytest.raises(NtkselError, match=r"runs code.*the metric .* of the library evaluate"):
            digests(elsewhere)


def test_a_template_can_not_escape(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "ran"
    text = CHOICES.replace(CHOICES.splitlines(keepends=True)[1], ESCAPE.replace("PLACE", f"'{place}'"))
    own = write_task(folder, "escape", text)
    with pytest.raises(NtkselError, match=r"can't run it: SecurityError"):
        digests(own)
    assert not place.exists()
    digests(own, trust=True)
    assert place.exists(), "the test would not see it else"


def test_a_function_of_lm_evals_own_is_trusted(folder: Path) -> None:
    include = PACKAGE / "tasks" / "hellaswag" / "hellaswag.yaml"
    own = folder / "own_hella.yaml"
    rows = [
        {"ind": 1, "activity_label": "A", "ctx_a": "a", "ctx_b": "b", "ctx": "a b", "endings": ["c", "d"], "label": "0"}
    ]
    data = write_rows(folder / "hella.jsonl", rows)
    files = json.dumps(
        {"data_files": {"train": str(data), "validation": str(data)}, "cache_dir": str(folder / "cache")}
    )
    own.write_text(f"include: {include}\ntask: own_hella\ndataset_path: json\ndataset_kwargs: {files}\n")
    assert digests(own).keys() == {"own_hella"}


def refused(message: str, *references: str | Path, **options: Any) -> None:
    with pytest.raises(NtkselError, match=message) as found:
        load_harness_tasks([str(each) for each in references], [], TaskOptions(**options), trust=False)
    assert found.value.fix


def test_refused_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = folder / "own_choices.yaml"
    broken, nameless = folder / "broken.yaml", folder / "nameless.yaml"
    broken.write_text("task: [unclosed", encoding="utf-8")
    nameless.write_text("output_type: multiple_choice\n", encoding="utf-8")
    refused(r"not valid YAML", broken)
    refused(r"names no task.*task: NAME", nameless)
    refused(r"gone.yaml: No such file", folder / "gone.yaml")
    refused(r"own_choices is among the others already", task, folder / "own_group.yaml")
    refused(r"12 .*examples|13 few-shot examples are wanted, and it has 12.*--num-fewshot 12", task, num_fewshot=13)
    refused(r"metrics of own_bleu \(bleu\) are not of single items", write_task(folder, "bleu", BLEU))
    refused(
        r"own_unsafe runs code that the model has written",
        write_task(folder, "unsafe", CHOICES + "unsafe_code: true\n"),
    )
    refused(r"own_image shows pictures", write_task(folder, "image", CHOICES + "doc_to_image: prompt\n"))
    lost = write_task(folder, "lost", CHOICES, data=folder / "gone.jsonl")
    refused(r"own_lost.yaml: lm_eval can't run it.*data can be reached", lost)
    lost.write_text(CHOICES + "task: own_lost\ndataset_path: nobody/no_such_data\ntest_split: test\n")
    refused(r"lm_eval can't run it.*HF_HUB_OFFLINE=1", lost)
    blind = write_task(folder, "blind", CHOICES.replace("{{prompt}}", "{{promt}}"))
    refused(r"own_blind.yaml: lm_eval can't run it: UndefinedError: 'promt' is undefined", blind)

    small = lm_eval_tasks.TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr(lm_eval_tasks, "TaskManager", lambda **_: small)  # its own tasks take 20 s to read
    refused(r"no_such_task: lm_eval has no such task.*lm-eval ls tasks", "no_such_task")
    group = folder / "own_group.yaml"
    group.write_text(group.read_text().replace("own_more", "own_gone"), encoding="utf-8")
    refused(r"the group names own_gone, which is a task neither of", group)


def test_a_task_that_fixes_no_examples_says_so(folder: Path) -> None:
    fixed = write_task(folder, "fixed", LIKELIHOOD + "num_fewshot: 0\n")
    found = load_harness_tasks([str(fixed)], [], TaskOptions(num_fewshot=2), trust=False)
    assert found.notes == ("own_fixed fixes its few-shot examples at 0; --num-fewshot does not change it",)
    assert found.tasks["own_fixed"].config.num_fewshot == 0


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (WRITTEN.replace("do_sample: false", "do_sample: true, temperature: 0.7"), {}, "do_sample: True.*greedy"),
        (WRITTEN.replace("do_sample: false", "temperature: 0.7"), {}, "do_sample: True.*greedy"),
        (WRITTEN.replace("do_sample: false", "num_beams: 4"), {}, "num_beams: 4.*greedy"),
        (WRITTEN.replace("max_gen_toks: 8", "max_new_tokens: 64"), {"max_length": 64}, "up to 64.*--max-length"),
        (LIKELIHOOD, {"max_length": 5}, r"an answer of \d+ tokens.*--max-length \d+ or more"),
        (BRIER, {"scorer": "choices"}, "do not take --scorer"),
        (BRIER, {"max_new_tokens": 5}, "do not take --max-new-tokens"),
        (BRIER, {"on_error": "skip"}, "do not take --on-error"),
        (BRIER, {"thinking": True}, "--thinking.*--apply-chat-template"),
        (BRIER, {"name": "../h"}, "--name"),
        (BRIER, {"run": []}, "nothing to evaluate"),
    ],
)
def test_what_a_run_refuses(tmp_path: Path, model_dir: Path, text: str, options: dict[str, Any], message: str) -> None:
    own = write_task(tmp_path, "own", text)
    arguments: dict[str, Any] = {"model": str(model_dir), "run": ["base"], "task": [f"lm_eval:{own}"], "name": "h"}
    with pytest.raises(Exception, match=message):
        evaluate(tmp_path / "s", **{**arguments, **options})
    assert not list((tmp_path / "s").glob("arrays.zarr/evals/h/*"))


def test_options_of_other_tasks(tmp_path: Path, model_dir: Path) -> None:
    plain = write_rows(tmp_path / "plain.jsonl", choice_rows(3))
    own = write_task(tmp_path, "brier", BRIER)
    known: dict[str, Any] = {"model": str(model_dir), "run": ["base"], "name": "h"}
    for options in ({"limit": 2}, {"num_fewshot": 1}, {"apply_chat_template": True}):
        with pytest.raises(NtkselError, match=r"Only tasks of lm_eval take --"):
            evaluate(tmp_path / "s", task=[str(plain)], **known, **options)
    with pytest.raises(NtkselError, match=r"can't be in one eval.*--name"):
        evaluate(tmp_path / "s", task=[f"lm_eval:{own}", str(plain)], **known)
    bare = tmp_path / "bare"
    shutil.copytree(model_dir, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(NtkselError, match=r"has no chat template"):
        evaluate(tmp_path / "s", task=[f"lm_eval:{own}"], apply_chat_template=True, **{**known, "model": str(bare)})
