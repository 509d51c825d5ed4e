"""Broken downloads of models and adapters: one line that names the file and the fix, before anything is computed."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows, save_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
VERBS = ("featurize", "finetune", "eval")

Damage = Callable[[Path], object]


def cut(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def put(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def remove(*patterns: str) -> Damage:
    return lambda folder: [path.unlink() for pattern in patterns for path in folder.glob(pattern)]


def change(name: str, **values: Any) -> Damage:
    return lambda folder: (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **values}))


def name_a_shard(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "model-other.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


DAMAGED_MODELS: dict[str, tuple[str, Damage, str]] = {
    "weights_pointer": (
        "whole",
        put("model.safetensors", POINTER),
        "model.safetensors is a Git LFS pointer.*git lfs pull",
    ),
    "weights_cut": (
        "whole",
        cut("model.safetensors"),
        r"model.safetensors is cut: it has [\d,]+ of [\d,]+ bytes. Download",
    ),
    "weights_cut_in_header": (
        "whole",
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100]),
        r"model.safetensors is cut within its header \(100 bytes\). Download",
    ),
    "weights_empty": ("whole", put("model.safetensors", ""), "model.safetensors is empty. Download"),
    "weights_text": ("whole", put("model.safetensors", "<html>not found</html>"), "its header is damaged. Download"),
    "config_pointer": ("whole", put("config.json", POINTER), "config.json is a Git LFS pointer"),
    "config_cut": ("whole", put("config.json", '{"model_type": "llama", '), "config.json is cut or damaged.* Download"),
    "config_empty": ("whole", put("config.json", ""), "config.json is empty. Download"),
    "config_list": ("whole", put("config.json", "[]"), "config.json holds a list, expected a JSON object. Download"),
    "config_type": ("whole", change("config.json", model_type="llama99"), "llama99.*Check its config.json"),
    "config_values": ("whole", change("config.json", hidden_size="wide"), "can't load it.*Check its config.json"),
    "generation_cut": ("whole", cut("generation_config.json"), "generation_config.json is cut or damaged.* Download"),
    "other_shapes": ("whole", change("config.json", intermediate_size=64), r"\(32, 48\) in the files and \(32, 64\)"),
    "too_few_layers": (
        "whole",
        change("config.json", num_hidden_layers=3),
        "lack model.layers.2.*and 8 more. Download",
    ),
    "too_many_layers": (
        "whole",
        change("config.json", num_hidden_layers=1),
        "have model.layers.1.*no place for. Download",
    ),
    "no_head": ("headless", lambda folder: None, "its files lack lm_head.weight. Download"),
    "dropped_bias": ("biased", change("config.json", attention_bias=False), "have model.layers.0.*bias.*no place for"),
    "no_tokenizer": ("whole", remove("token*", "chat_template*"), "has no tokenizer.*save_pretrained"),
    "tokenizer_pointer": ("whole", put("tokenizer.json", POINTER), "tokenizer.json is a Git LFS pointer"),
    "tokenizer_cut": ("whole", cut("tokenizer.json"), "tokenizer.json is cut or damaged.*Download"),
    "tokenizer_empty": ("whole", put("tokenizer.json", ""), "tokenizer.json is empty"),
    "tokenizer_other": ("whole", put("tokenizer.json", "{}"), "its tokenizer can't be loaded.*Download"),
    "tokenizer_config_cut": ("whole", cut("tokenizer_config.json"), "tokenizer_config.json is cut or damaged"),
    "template_pointer": ("whole", put("chat_template.jinja", POINTER), "chat_template.jinja is a Git LFS pointer"),
    "template_cut": ("whole", put("chat_template.jinja", "{% for m in"), "chat template is cut or damaged.*Download"),
    "shard_missing": ("sharded", remove("model-00002-*"), r"lacks model-00002-of-\d+.safetensors \(1 of \d+ files"),
    "shard_unknown": ("sharded", name_a_shard, "lacks model-other.safetensors"),
    "shard_empty": (
        "sharded",
        put("model-00001-of-00006.safetensors", ""),
        "model-00001-of-00006.safetensors is empty",
    ),
    "index_missing": ("sharded", remove("*.index.json"), "neither model.safetensors nor model.safetensors.index.json"),
    "index_cut": ("sharded", cut("model.safetensors.index.json"), "index.json is cut or damaged"),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole models: in one file, in several, without an output layer, and with biases."""
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("models")
    found = {"whole": save_model(root / "whole", tie_word_embeddings=False)}
    found["biased"] = save_model(root / "biased", attention_bias=True)
    for name in ("sharded", "headless"):
        found[name] = Path(shutil.copytree(found["whole"], root / name))
        (found[name] / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(found["whole"])
    model.save_pretrained(found["sharded"], max_shard_size="20KB")
    model.model.save_pretrained(found["headless"])
    (found["headless"] / "config.json").write_text((found["whole"] / "config.json").read_text())
    return found


def command(verb: str, store: Path, data: Path, model: Path, adapter: Path | None = None) -> list[str | Path]:
    """The verb on a few rows."""
    more: dict[str, list[str | Path]] = {
        "featurize": ["--data", data, "--kind", "ntk", "--dim", "64", *(["--adapter", adapter] if adapter else [])],
        "finetune": ["--train", data, "--epochs", "1", *(["--init-adapter", adapter] if adapter else [])],
        "eval": ["--task", data, "--run", adapter or "base", "--scorer", "loss"],
    }
    return [verb, store, "--name", "d", "--model", model, *more[verb]]


@pytest.mark.parametrize("case", DAMAGED_MODELS)
def test_a_damaged_model(cli: Cli, tmp_path: Path, models: dict[str, Path], write_jsonl: Writer, case: str) -> None:
    whole, damage, expected = DAMAGED_MODELS[case]
    model = Path(shutil.copytree(models[whole], tmp_path / "model"))
    damage(model)
    data = write_jsonl("d.jsonl", prompt_rows(3))
    for verb in VERBS:
        ran = cli(*command(verb, tmp_path / verb, data, model), "-q")
        assert ran.code == 2, (verb, ran.err)
        assert re.search(expected, ran.error_line), (verb, ran.error_line)
        assert str(model) in ran.error_line
        assert "bug" not in ran.err
        assert len(ran.err.splitlines()) == 1, ran.err


def test_embeddings_need_no_head(cli: Cli, tmp_path: Path, models: dict[str, Path], write_jsonl: Writer) -> None:
    """Encoders are published without one; their embeddings are those of the whole model."""
    data = write_jsonl("d.jsonl", prompt_rows(3))
    found = []
    for name in ("headless", "whole"):
        settings = ["--name", "d", "--kind", "embed", "--model", models[name]]
        assert cli("featurize", tmp_path / name, "--data", data, *settings).code == 0
        found.append(open_store(tmp_path / name).get("features/d/embed").read("embedding"))
    assert np.array_equal(*found)


DAMAGED_ADAPTERS: dict[str, tuple[Damage, int, str]] = {
    "weights_pointer": (put("adapter_model.safetensors", POINTER), 2, "adapter_model.safetensors is a Git LFS pointer"),
    "weights_cut": (cut("adapter_model.safetensors"), 2, "adapter_model.safetensors is cut: it has"),
    "weights_empty": (put("adapter_model.safetensors", ""), 2, "adapter_model.safetensors is empty"),
    "config_pointer": (put("adapter_config.json", POINTER), 2, "adapter_config.json is a Git LFS pointer"),
    "config_cut": (cut("adapter_config.json"), 2, "adapter_config.json is cut or damaged"),
    "config_list": (put("adapter_config.json", "[1]"), 2, "adapter_config.json holds a list"),
    "config_of_no_adapter": (put("adapter_config.json", "{}"), 2, "has no peft_type"),
    "other_rank": (change("adapter_config.json", r=8), 12, "does not fit this base model.*Give --model"),
    "rank_no_number": (change("adapter_config.json", r="four"), 12, "does not fit this base model"),
    "other_modules": (change("adapter_config.json", target_modules=["w1"]), 12, "does not fit this base model"),
    "more_modules": (change("adapter_config.json", target_modules=["q_proj", "v_proj", "k_proj"]), 12, "lacks weights"),
    "fewer_modules": (change("adapter_config.json", target_modules=["q_proj"]), 12, "v_proj.*leaves that layer out"),
}


@pytest.fixture(scope="session")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    model = AutoModelForCausalLM.from_pretrained(models["whole"])
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", DAMAGED_ADAPTERS)
def test_a_damaged_adapter(
    cli: Cli, tmp_path: Path, models: dict[str, Path], adapter_dir: Path, write_jsonl: Writer, case: str
) -> None:
    damage, code, expected = DAMAGED_ADAPTERS[case]
    adapter = Path(shutil.copytree(adapter_dir, tmp_path / "adapter"))
    damage(adapter)
    data = write_jsonl("d.jsonl", prompt_rows(3))
    for verb in VERBS:
        ran = cli(*command(verb, tmp_path / verb, data, models["whole"], adapter), "-q")
        assert ran.code == code, (verb, ran.err)
        assert re.search(expected, ran.error_line), (verb, ran.error_line)
        assert str(adapter) in ran.error_line
        assert "bug" not in ran.err
