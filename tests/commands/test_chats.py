"""Chats by the commands: rows cut at turns are counted everywhere, and templates that open a thought work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows

OPENS = (  # as DeepSeek R1's: a new answer begins with a thought, a finished one has none
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CHATS = [
    {
        "id": f"c{i}",
        "messages": [
            {"role": "system", "content": "S"},
            *(
                {"role": role, "content": f"{role} {k} of row {i}"}
                for k in range(1 + i)
                for role in ("user", "assistant")
            ),
        ],
    }
    for i in range(4)
]
LIMIT = ("--max-length", "150")


@pytest.fixture
def thinking_model(tmp_path: Path, model_dir: Path) -> Path:
    folder = tmp_path / "r1"
    shutil.copytree(model_dir, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = OPENS
    tokenizer.save_pretrained(folder)
    return folder


def result(cli: Cli, *words: Any) -> dict[str, Any]:
    ran = cli(*map(str, words), "--json")
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_rows_cut_at_turns_are_counted_by_every_command(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    store, data, model = tmp_path / "s", write_jsonl("chats.jsonl", CHATS), ("--model", model_dir)
    shown = result(cli, "info", "--data", data, *model, *LIMIT)
    dropped = [row["turns_dropped"] for row in shown["rows"]]
    cut = [row["truncated"] for row in shown["rows"]]
    assert dropped[0] == 0
    assert dropped[3] >= 4
    assert cut == [count > 0 for count in dropped]  # every exchange fits by itself here
    assert (shown["rows_cut"], shown["turns_dropped"]) == (sum(cut), sum(dropped))
    last = "".join(piece["text"] for piece in shown["rows"][3]["pieces"])
    assert last.startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nuser ")
    assert "assistant 3 of row 3" in last
    text = cli("info", "--data", data, *model, *LIMIT).out
    assert f"truncated, {dropped[3]} turns left out" in text
    assert f"{sum(cut)} of 4 rows cut to --max-length; {sum(dropped)} turns left out" in text
    made = result(cli, "featurize", store, "--data", data, "--name", "d", "--kind", "embed", *model, *LIMIT)
    assert made["truncated"] == sum(cut)
    trained = result(cli, "finetune", store, "--train", "d", "--name", "r", "--epochs", "1", *model, *LIMIT)
    assert trained["truncated"] == sum(cut)
    for scorer in ("loss", "generate"):
        words = ("--task", data, "--scorer", scorer, "--run", "base", "--name", scorer, "--max-new-tokens", "2")
        assert result(cli, "eval", store, *words, *model, *LIMIT)["truncated"] >= sum(cut) - 1


def test_a_template_that_opens_a_thought_works_in_every_command(
    cli: Cli, tmp_path: Path, thinking_model: Path, write_jsonl: Writer
) -> None:
    store, data, model = tmp_path / "s", write_jsonl("d.jsonl", prompt_rows(6)), ("--model", str(thinking_model))
    shown = result(cli, "info", "--data", data, *model)
    assert not any(row["problem"] for row in shown["rows"])
    assert shown["rows"][0]["pieces"][0]["text"].endswith("<|im_start|>assistant\n")
    assert "opens a thought" in shown["form"]
    commands = [
        ("featurize", store, "--data", data, "--name", "d", "--kind", "ntk", "--dim", "64"),
        ("finetune", store, "--train", data, "--name", "r", "--epochs", "1"),
        ("eval", store, "--task", data, "--scorer", "loss", "--run", "base", "--name", "l"),
        (
            "eval",
            store,
            "--task",
            data,
            "--scorer",
            "generate",
            "--run",
            "base",
            "--name",
            "g",
            "--max-new-tokens",
            "2",
        ),
    ]
    for words in commands:
        ran = cli(*map(str, words), *model)
        assert ran.code == 0, ran.err
        assert "opens a thought (<think>) before a new answer" in " ".join(ran.err.split())
    other = cli(*map(str, commands[-1]), *model, "--thinking", "off")
    assert other.code == 12  # another prompt is another evaluation
    assert "--thinking" in other.error_line
