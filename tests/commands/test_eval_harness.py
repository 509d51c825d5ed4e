"""`ntksel eval --task lm_eval:...` on the command line."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from ntkcli.engine.models import loading
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.conftest import choice_rows, write_rows
from tests.steps.evaluation.lm_eval_kit import CHOICES, write_task


def test_on_the_command_line(cli: Cli, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options arrive; a finished eval loads no model; other settings are refused by the options that make them."""
    task = write_task(tmp_path, "more", CHOICES)
    words = ["--model", model_dir, "--run", "base", "--task", f"lm_eval:{task}", "--name", "h"]
    options = ["--num-fewshot", "2", "--limit", "3", "--apply-chat-template", "--thinking", "off"]
    ran = cli("eval", tmp_path / "s", *words, *options, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["items"] == 3
    spec = open_store(tmp_path / "s").get("evals/h/base").spec
    assert {key: spec[key] for key in ("num_fewshot", "limit", "apply_chat_template", "encoder")} == {
        "num_fewshot": 2,
        "limit": 3,
        "apply_chat_template": True,
        "encoder": {**spec["encoder"], "thinking": False},
    }
    assert spec["lm_eval"] == version("lm_eval")
    monkeypatch.setattr(loading, "load_model", None)
    assert "finished already" in cli("eval", tmp_path / "s", *words, *options).err
    other = cli("eval", tmp_path / "s", *words, *options, "--limit", "4")
    assert other.code == 12
    assert "(--limit)" in other.error_line
    for wrong in (["--limit", "0"], ["--num-fewshot", "-1"]):
        assert cli("eval", tmp_path / "t", *words, *wrong).code == 2


def test_options_of_lm_eval_alone(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    """Other tasks do not take them, in a dry run neither."""
    task = write_rows(tmp_path / "t.jsonl", choice_rows(3))
    words = ["--model", model_dir, "--run", "base", "--task", task, "--name", "h"]
    for options in (["--limit", "2"], ["--num-fewshot", "0"], ["--apply-chat-template"]):
        for dry in ([], ["--dry-run"]):
            ran = cli("eval", tmp_path / "s", *words, *options, *dry)
            assert ran.code == 2, options
            assert f"Only tasks of lm_eval take {options[0]}." in ran.error_line
