"""Rows longer than a model's positions and tokens beyond its embedding table: one line, before weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.app import run
from ntkcli.engine.models.limits import position_limit
from ntkcli.errors import ExitCode
from ntkcli.steps.shared.stores import open_store
from tests.conftest import Writer, choice_rows, make_tokenizer, prompt_rows, save_model
from tests.engine import zoo

POSITIONS = 64


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned positions; its file of weights is sound and holds none: whoever loads them fails otherwise."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS)
    GPT2LMHeadModel(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return folder


def commands(store_path: Path, data: Path, task: Path, model: Path) -> dict[str, list[str]]:
    last = ["--model", str(model), "-q"]
    path = str(store_path)
    return {
        "featurize": ["featurize", path, "--data", str(data), "--name", "d", "--kind", "ntk", "--dim", "64", *last],
        "finetune": ["finetune", path, "--train", str(data), "--name", "r", "--epochs", "1", "--rank", "2", *last],
        "eval": ["eval", path, "--run", "base", "--task", str(task), "--name", "e", *last],
    }


@pytest.mark.parametrize("command", ["featurize", "finetune", "eval"])
@pytest.mark.parametrize("dry", [False, True])
def test_rows_longer_than_learned_positions(
    gpt2: Path, tmp_path: Path, write_jsonl: Writer, capsys: pytest.CaptureFixture[str], command: str, dry: bool
) -> None:
    rows = prompt_rows(3)
    rows.insert(1, {"id": "long", "prompt": "word " * 40 + "?", "completion": "yes"})
    items = choice_rows(3)
    items.insert(1, {"id": "long", "prompt": "word " * 40 + "?", "choices": ["yes", "no"], "answer": 0})
    given = commands(tmp_path / "s", write_jsonl("d.jsonl", rows), write_jsonl("t.jsonl", items), gpt2)[command]
    open_store(tmp_path / "s", create=True)
    code = run([*given, *(["--dry-run"] if dry else [])])
    printed = capsys.readouterr().err
    assert code == ExitCode.USAGE, printed
    assert f"embeddings for {POSITIONS} positions. Give --max-length {POSITIONS}, or less." in printed
    whole = dry and command != "eval"
    assert ("The longest row has" if whole else "row 2 has" if command == "featurize" else "line 2") in printed


def test_a_maximum_length_within_the_positions_works(tmp_path: Path, write_jsonl: Writer) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path / "m"
    config = GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS)
    GPT2LMHeadModel(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    rows = [*prompt_rows(3), {"id": "long", "prompt": "word " * 40 + "?", "completion": "yes"}]
    given = commands(tmp_path / "s", write_jsonl("d.jsonl", rows), write_jsonl("t.jsonl", choice_rows(3)), folder)
    for command in ("featurize", "eval"):
        assert run([*given[command], "--max-length", str(POSITIONS)]) == 0


def test_positions_are_found_by_what_a_model_keeps() -> None:
    """Every architecture of the zoo: the limit is stated just where a longer row fails."""
    from transformers import AutoConfig, AutoModelForCausalLM

    n = 40
    for name, (kind, settings) in {**zoo.DENSE, **zoo.EXPERTS, "mpt": ("mpt", {})}.items():
        if name == "gemma3_images":
            continue
        plain = AutoConfig.for_model(kind).to_dict()
        stated = {key: n for key in ("n_positions", "max_position_embeddings", "max_seq_len") if key in plain}
        small = {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": zoo.VOCABULARY} if kind == "mpt" else {}
        config = AutoConfig.for_model(kind, **{**settings, **small, **stated})
        model = AutoModelForCausalLM.from_config(config).eval()
        fails = False
        try:
            with torch.no_grad():
                model(input_ids=torch.arange(3, 4 + n)[None], use_cache=False)
        except (IndexError, RuntimeError):
            fails = True
        assert position_limit(config, n + 1) == (n if fails else None), name
        assert position_limit(config, n) is None


@pytest.fixture
def padded(tmp_path: Path) -> tuple[Path, Path]:
    """One model with two tokenizers: its own, and one with a padding token that was added behind the table."""
    folders = []
    for name in ("own", "behind"):
        tokenizer = make_tokenizer()
        folder = save_model(tmp_path / name)
        if name == "behind":
            tokenizer.add_special_tokens({"pad_token": "[PAD]"})
            tokenizer.add_tokens(["wordless"])
            tokenizer.save_pretrained(folder)
        folders.append(folder)
    return folders[0], folders[1]


def test_a_padding_token_beyond_the_table_changes_nothing(
    padded: tuple[Path, Path], tmp_path: Path, write_jsonl: Writer
) -> None:
    data, task = write_jsonl("d.jsonl", prompt_rows(6)), write_jsonl("t.jsonl", choice_rows(4))
    found: list[dict[str, Any]] = []
    for model in padded:
        path = tmp_path / f"s-{model.name}"
        for command in commands(path, data, task, model).values():
            assert run(command) == 0
        generated = ["eval", str(path), "--run", "base", "--task", str(data), "--scorer", "generate", "--name", "g"]
        assert run([*generated, "--max-new-tokens", "4", "--model", str(model), "-q"]) == 0
        stored = open_store(path)
        found.append(
            {
                "features": stored.get("features/d/ntk").read("sketch"),
                "loss": stored.get("runs/r").read("loss"),
                "likelihoods": stored.get("evals/e/base").read("loglik"),
                "texts": stored.get("evals/g/base").read("text"),
            }
        )
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)


@pytest.mark.parametrize("command", ["featurize", "finetune", "eval"])
def test_a_token_beyond_the_table_is_named_with_its_row(
    padded: tuple[Path, Path],
    tmp_path: Path,
    write_jsonl: Writer,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    _, model = padded
    rows, items = prompt_rows(4), choice_rows(4)
    rows[2]["prompt"] = items[2]["prompt"] = "a wordless one?"
    data, task = write_jsonl("d.jsonl", rows), write_jsonl("t.jsonl", items)
    given = commands(tmp_path / "s", data, task, model)[command]
    assert run(given) == ExitCode.FAILURE
    printed = capsys.readouterr().err
    file = task if command == "eval" else data
    assert f"{file} line 3" in printed
    assert "its token 'wordless' is number 260, and the model has embeddings for 259" in printed
    assert run([*given, "--on-error", "skip"]) in (ExitCode.OK, ExitCode.ROWS_SKIPPED)


def test_counts_of_one_tokenizer_are_not_those_of_another_table(
    padded: tuple[Path, Path], tmp_path: Path, write_jsonl: Writer
) -> None:
    """The same tokenizer on a model that was resized: its rows can be used."""
    _, small = padded
    large = tmp_path / "large"
    save_model(large, vocab_size=261)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (small / name).is_file():
            (large / name).write_bytes((small / name).read_bytes())
    rows = prompt_rows(4)
    rows[2]["prompt"] = "a wordless one?"
    data = write_jsonl("d.jsonl", rows)
    given = commands(tmp_path / "s", data, data, small)["featurize"]
    assert run([*given, "--on-error", "skip"]) == ExitCode.ROWS_SKIPPED
    other = [*commands(tmp_path / "s", data, data, large)["featurize"], "--feature", "large"]
    assert run(other) == ExitCode.OK
    assert json.loads((large / "config.json").read_text())["vocab_size"] == 261
