"""4- and 8-bit bases: adapters run beside the quantised layers; features equal autograd through peft's own layers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.app import run
from ntkcli.engine.features.embeddings import EmbeddingEngine
from ntkcli.engine.features.extract import GradientSettings, embedding_extractor, gradient_extractor
from ntkcli.engine.models.adapters import fresh_adapter, load_adapter
from ntkcli.engine.models.loading import load_model
from ntkcli.errors import UsageError
from ntkcli.identity import AdapterIdentity, resolve_adapter, resolve_model
from ntkcli.steps.shared.cost import weight_size
from tests.conftest import Writer, choice_rows, make_tokenizer, prompt_rows, save_model
from tests.engine.kit import assert_equal, make_engine, make_rows, peft_gradients

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="the package bitsandbytes is missing"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft asks transformers for it
]
RANK = 3


@pytest.fixture(scope="module", params=[4, 8], ids=["4-bit", "8-bit"])
def quantised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama, its weights rough, quantised and saved as unsloth's and others' folders are."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = tmp_path_factory.mktemp("quantised")
    plain = save_model(folder / "plain", hidden_size=64, intermediate_size=128)
    config = BitsAndBytesConfig(
        load_in_4bit=request.param == 4,
        load_in_8bit=request.param == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, dtype=torch.float32)
    model.save_pretrained(folder / "quantised")
    make_tokenizer().save_pretrained(folder / "quantised")
    return folder / "quantised"


@pytest.fixture
def adapter(quantised: Path, tmp_path: Path) -> AdapterIdentity:
    """A peft adapter with B not zero."""
    from peft import LoraConfig, get_peft_model

    base = load_model(resolve_model(str(quantised)), dtype="float32", device="cpu").model
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(3)
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    return resolve_adapter(str(tmp_path / "adapter"), adapters=tmp_path)


def peft_loop(folder: Path, adapter: AdapterIdentity, rows: list[Any], kind: str) -> list[dict[str, Any]]:
    """Gradients by autograd through peft on bitsandbytes' layers, one row at a time."""
    from peft import PeftModel

    base = load_model(resolve_model(str(folder)), dtype="float32", device="cpu").model
    model = PeftModel.from_pretrained(base, str(adapter.folder), is_trainable=True).eval()
    return peft_gradients(model, rows, kind)


@pytest.mark.parametrize("kind", ["sum", "loss"])
def test_gradients_equal_peft_on_the_same_quantised_model(quantised: Path, adapter: AdapterIdentity, kind: str) -> None:
    rows = make_rows([5, 12, 3, 9])
    identity = resolve_model(str(quantised))
    loaded = load_model(identity, dtype="float32", device="cpu")
    layers = load_adapter(loaded, adapter, identity)
    assert len(layers) == 14
    assert not any(layer.merged for layer in layers)
    found = make_engine(loaded, layers, probe=kind).features(
        rows, positions="targets" if kind == "loss" else "completion"
    )
    # Of 8 bits the layers round their input too: a difference in its last digit can become a step of 1/127 there.
    assert_equal(found, peft_loop(quantised, adapter, rows, kind), tolerance=50 if _bits(quantised) == 8 else 2)


def test_a_fresh_adapter_and_the_batch(quantised: Path) -> None:
    """B = 0: nothing runs beside. Neither batch nor padding changes a feature."""
    rows = make_rows([5, 12, 3, 9])
    loaded = load_model(resolve_model(str(quantised)), dtype="float32", device="cpu")
    layers = fresh_adapter(loaded.model, rank=RANK, target_modules="all-linear", seed=1)
    assert layers[0].a.shape == (RANK, 64)
    engine = make_engine(loaded, layers)
    together = engine.features(rows, positions="completion")
    assert float(together.norm.min()) > 0
    for i, row in enumerate(rows):
        alone = engine.features([row], positions="completion")
        np.testing.assert_allclose(alone.sketch[0], together.sketch[i], atol=5e-3 if _bits(quantised) == 8 else 1e-5)


def test_embeddings_are_those_of_the_adapted_model(quantised: Path, adapter: AdapterIdentity) -> None:
    from peft import PeftModel

    rows, identity = make_rows([5, 9]), resolve_model(str(quantised))
    base = load_model(identity, dtype="float32", device="cpu")
    bare, _ = EmbeddingEngine(base, pooling="mean").features(rows, positions="all")
    PeftModel.from_pretrained(base.model, str(adapter.folder)).eval()
    expected, _ = EmbeddingEngine(base, pooling="mean").features(rows, positions="all")
    extractor = embedding_extractor(
        load_model(identity, dtype="float32", device="cpu"),
        model=identity,
        adapter=adapter,
        positions="all",
        pooling="mean",
        batch_tokens=64,
    )
    found = extractor.vectors(rows, on_batch=lambda rows, tokens: None)
    np.testing.assert_allclose(found.unit, expected, atol=1e-3)
    assert np.abs(found.unit - bare.numpy()).max() > 0.05


@pytest.mark.parametrize("kind", ["ntk", "embed"])
def test_losses_before_the_adapter_are_the_base_s(quantised: Path, adapter: AdapterIdentity, kind: str) -> None:
    """The updates beside quantised layers are left out, and losses are those of a model without an adapter."""
    rows, identity = make_rows([5, 9, 14]), resolve_model(str(quantised))

    def losses(adapter: AdapterIdentity | None) -> dict[str, Any]:
        loaded = load_model(identity, dtype="float32", device="cpu")
        common: dict[str, Any] = {"model": identity, "adapter": adapter, "batch_tokens": 1, "losses": True}
        if kind == "embed":
            made = embedding_extractor(loaded, positions="all", pooling="mean", **common)
        else:
            settings = GradientSettings(
                kind="ntk", positions="completion", probe="sum", probes=1, projection="sjlt", dim=64, seed=0,
                layers="all", rank=RANK, target_modules="all-linear", adapter_seed=0,
            )  # fmt: skip
            made = gradient_extractor(loaded, settings=settings, **common)
        return made.vectors(rows, on_batch=lambda *_: None).losses

    adapted, bare = losses(adapter), losses(None)
    np.testing.assert_allclose(adapted["loss_before"], bare["loss"], rtol=1e-5)
    assert np.abs(adapted["loss"] - bare["loss"]).max() > 1e-3


def test_from_finetune_to_eval_on_a_quantised_base(quantised: Path, tmp_path: Path, write_jsonl: Writer) -> None:
    """The command line, end to end, on the same folder."""
    data, task, path = write_jsonl("d.jsonl", prompt_rows(8)), write_jsonl("t.jsonl", choice_rows(4)), tmp_path / "s"
    model = ["--model", str(quantised), "-q"]
    assert (
        run(["finetune", str(path), "--train", str(data), "--name", "r", "--epochs", "1", "--rank", "2", *model]) == 0
    )
    for kind in ("ntk", "embed"):
        features = ["featurize", str(path), "--data", str(data), "--name", "d", "--kind", kind, "--dim", "64"]
        assert run([*features, "--adapter", "r", *model]) == 0
    evaluated = ["eval", str(path), "--run", "base", "--run", "r", "--task", str(task), "--name", "e", *model]
    assert run(evaluated) == 0


def test_a_folder_quantised_by_something_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("no bitsandbytes")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", missing)
    folder = save_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"quantised by bitsandbytes.*ntksel\[quantised\]"):
        load_model(resolve_model(str(folder)), dtype="float32", device="cpu")


def test_a_dry_run_counts_packed_weights(quantised: Path) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(quantised.parent / "plain")
    counted, _ = weight_size(resolve_model(str(quantised)))
    assert counted == pytest.approx(sum(p.numel() for p in plain.parameters()), rel=0.05)


def _bits(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    return 4 if config["load_in_4bit"] else 8
