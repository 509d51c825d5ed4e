"""Tasks on the command line: listed, trained on, evaluated, looked for in the pool."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows


def test_list_and_show(cli: Cli) -> None:
    listed = cli("tasks")
    assert listed.code == 0
    assert "medmcqa " in listed.out
    assert len(listed.out.splitlines()) == len(json.loads(cli("tasks", "--json").out)["tasks"])
    shown = cli("tasks", "contract-nli")
    assert "CC-BY-4.0" in shown.out
    assert "premise, hypothesis, label" in shown.out
    assert json.loads(cli("tasks", "fiqa", "--json").out)["hub"] == ["TheFinAI/fiqa-sentiment-classification"]
    ran = cli("tasks", "medmcq")
    assert ran.code == 2
    assert "There is no task 'medmcq'" in ran.error_line


def test_train_evaluate_and_find_leaks(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    folder = tmp_path / "fpb"
    folder.mkdir()
    labels = ("positive", "neutral", "negative")
    sentences = [f"The company number {i} of the north said that sales went {labels[i % 3]}" for i in range(12)]
    lines = [f"{text} .@{labels[i % 3]}\n" for i, text in enumerate(sentences)]
    (folder / "Sentences_AllAgree.txt").write_text("".join(lines), encoding="latin-1")
    task, store = f"financial-phrasebank:{folder}", tmp_path / "s"
    on = ["--model", model_dir]
    ran = cli("finetune", store, *on, "--train", task, "--name", "r", "--epochs", "1", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["rows"] == 12
    ran = cli("eval", store, *on, "--run", "base", "--run", "r", "--task", task, "--name", "e", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["items"] == 12
    assert {score["task"] for score in json.loads(ran.out)["scores"]} == {"financial-phrasebank"}
    pool = write_jsonl("pool.jsonl", [*prompt_rows(9), {"prompt": "Go on.", "completion": f"{sentences[4]} again"}])
    on += ["--name", "pool", "--kind", "embed"]
    assert cli("featurize", store, "--data", pool, *on).code == 0
    assert cli("score", store, "--pool", "pool", "--method", "random", "--name", "x").code == 0
    for against in ([], ["--against", task]):
        ran = cli("select", store, "--score", "x", "-n", "8", "--name", f"s{len(against)}", *against, "--json")
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["removed"] == {"--against": 1}
