"""Rows of schema text, raw: trained on, packed, featurized and evaluated as plain loops do it; resumed to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import store
from ntkcli.steps.training.finetune import finetune
from tests.commands.conftest import Cli
from tests.commands.test_kill import killed_once, tree
from tests.conftest import Writer, choice_rows, prompt_rows, text_rows

RAW = ("--text-as", "raw", "--max-length", "64")


def test_perplexity_is_that_of_a_plain_loop(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = text_rows(9)
    data = write_jsonl("texts.jsonl", [*rows, {"id": "empty", "text": " "}])
    words = ("--model", model_dir, "--run", "base", "--task", data, *RAW, "--name", "e")
    refused = cli("eval", tmp_path / "s", *words)
    assert "line 10" in refused.error_line
    assert cli("eval", tmp_path / "s", *words, "--on-error", "skip", "--json").code == 3
    found = store.Store.open(tmp_path / "s").get("evals/e/base")
    assert found.spec["encoder"]["text_as"] == "raw"
    assert found.spec["scorer"] == "loss"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
    cut = 0
    for i, row in enumerate(rows):
        whole = [*tokenizer(row["text"]).input_ids, tokenizer.eos_token_id]
        ids = torch.tensor(whole[:64])[None]
        cut += len(whole) > 64
        with torch.no_grad():
            mean = float(model(input_ids=ids, labels=ids).loss)
        assert found.read("tokens")[i] == ids.shape[1] - 1
        assert found.read("nll")[i] / found.read("tokens")[i] == pytest.approx(mean, rel=1e-5)
    status = found.read("status")
    assert 0 < cut == int((status == store.RowStatus.TRUNCATED).sum()) < 9
    assert status[9] == store.RowStatus.EMPTY


def test_features_are_of_the_first_tokens_and_counts_of_all(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    rows = text_rows(6)
    data = write_jsonl("texts.jsonl", rows)
    words = ("--data", data, "--name", "t", "--kind", "embed", "--model", model_dir)
    ran = cli("featurize", tmp_path / "s", *words, *RAW, "--json")
    assert ran.code == 0, ran.err
    lengths = [len(row["text"].encode()) + 1 for row in rows]
    stored = store.Store.open(tmp_path / "s")
    features = stored.get("features/t/embed")
    assert features.read("tokens").tolist() == [min(n, 64) for n in lengths]
    assert json.loads(ran.out)["truncated"] == sum(n > 64 for n in lengths) > 0
    (counts,) = stored.artefacts(store.Kind.TOKENS)
    assert counts.read("length").tolist() == lengths
    assert counts.spec["encoder"]["text_as"] == "raw"
    assert cli("featurize", tmp_path / "s", *words, "--max-length", "64").code == 12
    estimate = cli("featurize", tmp_path / "another", *words, *RAW, "--dry-run", "--json")
    assert json.loads(estimate.out)["tokens"] == sum(min(n, 64) for n in lengths)
    shown = cli("info", "--data", data, "--model", model_dir, *RAW, "--rows", "1", "--json")
    assert json.loads(shown.out)["rows"][0]["tokens"] == min(lengths[0], 64)


@pytest.mark.parametrize("loss_per", ["token", "row"])
def test_packed_training_is_the_training_of_the_documents(
    loss_per: str, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    """One step over all documents: the same loss and, but for rounding, the same weights, packed or not."""
    from safetensors.numpy import load_file

    data = write_jsonl("texts.jsonl", text_rows(20, words=12))
    how: dict[str, Any] = {"model": str(model_dir), "train": [str(data)], "epochs": 1, "batch_size": 99, "rank": 2}
    how |= {"text_as": "raw", "max_length": 100, "loss_per": loss_per, "lr": 1e-3, "keep_optimizer": True}
    apart, packed = (finetune(tmp_path / "s", name=name, pack=name == "packed", **how) for name in ("apart", "packed"))
    assert apart.steps == packed.steps == 1
    assert apart.tokens == packed.tokens
    assert (apart.rows, apart.sequences) == (packed.rows, None)
    assert packed.sequences is not None
    assert packed.tokens / 100 <= packed.sequences < apart.rows
    assert packed.first_loss == pytest.approx(apart.first_loss, rel=1e-6)
    moments = [load_file(Path(run.adapter) / "optimizer.safetensors") for run in (apart, packed)]
    for name, value in moments[0].items():
        np.testing.assert_allclose(moments[1][name], value, rtol=1e-3, atol=1e-3 * np.abs(value).max())


def test_a_killed_packed_run_ends_in_the_same_bytes(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    """Of documents in pieces, some held out, in packs."""
    data = write_jsonl("texts.jsonl", text_rows(24))
    options = ["--name", "r", "--train", str(data), *RAW, "--pack", "--batch-size", "4", "--checkpoint-steps", "2"]
    options += ["--model", str(model_dir), "--epochs", "2", "--hold-out", "0.2", "--json"]
    ran = cli("finetune", tmp_path / "unbroken", *options)
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["documents"] == 24 < result["rows"] + result["held_out"]
    assert result["truncated"] == 0
    assert result["planned_steps"] == 2 * -(-result["sequences"] // 4)
    records = tmp_path / "killed/arrays.zarr/runs/r/part/c"
    assert killed_once(["finetune", str(tmp_path / "killed"), *options], records, after=2, delay=0.01)
    assert cli("finetune", tmp_path / "killed", *options).code == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "unbroken")
    estimate = json.loads(cli("finetune", tmp_path / "none", *options, "--dry-run").out)
    assert estimate["unusable"] == estimate["truncated"] == 0
    assert estimate["rows"] + estimate["held_out"] == result["rows"] + result["held_out"]
    assert estimate["steps"] == pytest.approx(result["planned_steps"], rel=0.2)


def test_other_rows_are_refused_by_name(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    pairs, items = write_jsonl("pairs.jsonl", prompt_rows(4)), write_jsonl("items.jsonl", choice_rows(4))
    texts = write_jsonl("texts.jsonl", text_rows(8))
    s, model = tmp_path / "s", ("--model", model_dir)
    told = "--text-as raw is for rows of schema text, and these are prompt/completion."
    for words in (
        ("finetune", s, *model, "--train", texts, "--train", pairs, "--name", "r"),
        ("finetune", s, *model, "--train", texts, "--then", pairs, "--name", "r", "--dry-run"),
        ("featurize", s, *model, "--data", pairs, "--name", "p", "--kind", "embed"),
        ("eval", s, *model, "--run", "base", "--task", pairs, "--scorer", "loss", "--name", "e"),
        ("info", "--data", pairs, *model),
        ("arms", s, *model, "--domain", texts, "--pool", pairs, "--task", items, "-n", "2", "--arms", "base,random"),
    ):
        ran = cli(*words, "--text-as", "raw")
        assert ran.code == 1, words
        assert f"{pairs}: {told}" in ran.error_line
    ran = cli("eval", s, *model, "--run", "base", "--task", items, "--name", "e", "--text-as", "raw")
    assert "--text-as raw is for rows of schema text, and these are scored by choices" in ran.error_line
    ran = cli("finetune", s, *model, "--train", texts, "--name", "r")
    assert "give --text-as raw" in ran.error_line


def test_arms_read_texts_raw_where_they_are(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """The steps that read the domain and the pool; the evaluation only if a task has texts."""
    domain, pool = write_jsonl("domain.jsonl", text_rows(8)), write_jsonl("pool.jsonl", text_rows(20, seed=1))
    tasks = {"texts": write_jsonl("texts.jsonl", text_rows(5, seed=2)), "items": write_jsonl("i.jsonl", choice_rows(4))}
    for kind, task in tasks.items():
        words = (
            "--model",
            model_dir,
            "--domain",
            domain,
            "--pool",
            pool,
            "--task",
            task,
            "-n",
            "4",
            "--text-as",
            "raw",
        )
        ran = cli("arms", tmp_path / "s", *words, "--arms", "base,random,selected", "--dry-run", "--json")
        assert ran.code == 0, ran.err
        for command in json.loads(ran.out)["commands"]:
            verb = command.split()[1]
            wanted = verb in ("finetune", "featurize") or (verb == "eval" and kind == "texts")
            assert ("--text-as raw" in command) == wanted, command


def test_validate_reads_texts_raw(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """Its tokens are those of the plain texts, and rows of another schema are refused by name."""
    domain, pool = text_rows(6), text_rows(30, seed=1)
    files = {"domain": write_jsonl("domain.jsonl", domain), "pool": write_jsonl("pool.jsonl", pool)}
    task, pairs = write_jsonl("test.jsonl", text_rows(5, seed=2)), write_jsonl("pairs.jsonl", prompt_rows(4))
    s = tmp_path / "s"
    assert cli("score", s, "--pool", f"pool={files['pool']}", "--method", "random", "--name", "r").code == 0
    words = ["validate", s, "--score", "r", "--model", model_dir, "--design", "bins", "--bins", "2", "--rows", "6"]
    words += ["--seeds", "0", "--epochs", "1", "--domain-repeat", "1", "--name", "v", "--dry-run", "--json", *RAW]
    ran = cli(*words, "--domain", files["domain"], "--task", task)
    assert ran.code == 0, ran.err
    lengths = {name: [min(64, len(row["text"]) + 1) for row in rows] for name, rows in (("d", domain), ("p", pool))}
    found = json.loads(ran.out)
    with_pool = sum(lengths["d"]) + 6 * float(np.mean(lengths["p"]))
    runs = found["runs"] - 1  # one is the model without training
    alone = range(runs)  # and some without the pool
    assert found["train_tokens"] in [round(k * sum(lengths["d"]) + (runs - k) * with_pool) for k in alone]
    for given in (("--domain", pairs, "--task", task), ("--domain", files["domain"], "--task", pairs)):
        ran = cli(*words, *given)
        assert "--text-as raw is for rows of schema text, and these are prompt/completion" in ran.error_line
