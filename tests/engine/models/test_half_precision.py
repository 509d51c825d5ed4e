"""Adapters on bfloat16 and float16 weights: nothing of s·BA is lost, in no engine; float32 is the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.data.encoding import Encoded
from ntkcli.engine.evaluation.evaluator import Evaluator
from ntkcli.engine.features.exact_scores import ExactScorer
from ntkcli.engine.features.extract import GradientSettings
from ntkcli.engine.models.adapters import AdaptedLayer, apply_adapter, load_adapter, only_layers
from ntkcli.engine.models.attach import weight_hashes
from ntkcli.engine.models.beside import product_with, weight_of
from ntkcli.engine.models.loading import decoder_of, load_model
from ntkcli.engine.training.train import TrainingOptions, _with_adapter
from ntkcli.identity import AdapterIdentity, ModelIdentity, resolve_adapter, resolve_model
from tests.conftest import make_tokenizer, save_model
from tests.engine.kit import make_engine, make_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft asks for it
    pytest.mark.filterwarnings("ignore:fan_in_fan_out"),  # peft finds out by itself
]
HALF = ["bfloat16", "float16"]
SMALL = 1e-4
"""Of a weight's mean magnitude: what a change by the adapter has."""


@pytest.fixture(scope="module", params=["llama_bias", "gpt2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelIdentity:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config(vocab_size=len(make_tokenizer()), n_embd=64, n_layer=2, n_head=4)).save_pretrained(
            folder
        )
        make_tokenizer().save_pretrained(folder)
    else:
        bias = {"attention_bias": True, "mlp_bias": True} if request.param == "llama_bias" else {}
        save_model(folder, hidden_size=64, intermediate_size=96, **bias)
    return resolve_model(str(folder))


def make_adapter(model: ModelIdentity, folder: Path, size: float = SMALL) -> AdapterIdentity:
    """LoRA on every layer whose s·BA has `size` of the weights' mean magnitude."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(3)
    attached = get_peft_model(load_model(model, dtype="float32", device="cpu").model, config)
    for layer in attached.modules():
        if hasattr(layer, "lora_A") and "default" in layer.lora_A:
            a, b = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
            b.normal_()
            b *= size * layer.weight.abs().mean() / (2 * b @ a).abs().mean()
    attached.save_pretrained(folder)
    return resolve_adapter(str(folder), adapters=folder)


def slope(found: torch.Tensor, base: torch.Tensor, expected: torch.Tensor) -> float:
    """How much of an expected change has arrived: 1 if all of it has."""
    moved = found.double() - base.double()
    return float((moved * expected.double()).sum() / expected.double().square().sum())


@pytest.mark.parametrize("dtype", HALF)
def test_a_change_below_a_weight_s_digits_arrives(dtype: str) -> None:
    """Of the product with the update in its sums; merged or added afterwards, 7% of it is left in bfloat16."""
    number = getattr(torch, dtype)
    torch.manual_seed(0)
    w, x = torch.randn(256, 256).to(number), torch.randn(2, 2048, 256).to(number)
    delta = SMALL * 0.8 * torch.randn(2, 2048, 256) * 16
    plain = torch.nn.functional.linear(x, w)
    assert slope(product_with(delta.to(number), x, w), plain, delta) == pytest.approx(1, abs=0.05)
    assert slope((plain + delta).to(number), plain, delta) < 0.7
    bias = torch.randn(256).to(number)
    zero = torch.zeros_like(delta).to(number)
    with_bias = slope(product_with(delta.to(number), x, w, bias), product_with(zero, x, w, bias), delta)
    assert with_bias == pytest.approx(1, abs=0.05)


def outputs(layers: list[tuple[str, Any]], run: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """What each layer is given in a run, and what it makes of it."""
    seen = {}

    def watch(name: str) -> Any:
        def hook(_: Any, inputs: Any, output: torch.Tensor) -> None:
            seen[name] = inputs[0].detach(), output.detach()

        return hook

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers]
    run()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("engine", ["features", "embeddings", "evaluation", "training"])
def test_every_engine_computes_with_the_whole_adapter(
    base: ModelIdentity, dtype: str, engine: str, tmp_path: Path
) -> None:
    """Layer by layer: what the adapter adds to the output is s·B A x of float32, and no base weight changes."""
    adapter = make_adapter(base, tmp_path)
    rows = make_rows([200] * 8)
    loaded = load_model(base, dtype=dtype, device="cpu")
    weights = weight_hashes(loaded.model)
    wide = load_adapter(load_model(base, dtype="float32", device="cpu"), adapter, base)
    assert all(layer.merged for layer in wide)
    names = {layer.name: layer for layer in wide}
    ids = torch.tensor(np.stack([row.ids for row in rows]).astype(np.int64))

    def run() -> None:
        decoder_of(loaded.model)(input_ids=ids, use_cache=False)

    if engine == "features":
        layers = load_adapter(loaded, adapter, base)
        assert not any(layer.merged for layer in layers)
        computing = make_engine(loaded, layers)

        def run() -> None:
            computing.features(rows, positions="all")
    elif engine == "embeddings":
        apply_adapter(loaded, adapter, base)
    elif engine == "evaluation":
        evaluator = Evaluator(loaded, None, batch_tokens=None)  # type: ignore[arg-type]  # encodes nothing here
        evaluator.use(adapter, base)
    else:
        from ntkcli.engine.models.attach import attach_adapter

        attach_adapter(loaded.model, adapter, trainable=True)
    moved, wanted = [], []
    modules = [(name, loaded.model.get_submodule(name)) for name in names]
    for name, (x, y) in outputs(modules, run).items():
        layer, module = names[name], loaded.model.get_submodule(name)
        bare = getattr(module, "base_layer", module)
        without = product_with(torch.zeros_like(y), x, weight_of(bare), bare.bias)
        expected = layer.scale * x.float() @ layer.a.T @ layer.b.T
        moved.append((y.float() - without.float()).flatten() / expected.norm())
        wanted.append(expected.flatten() / expected.norm())
    assert slope(torch.cat(moved), torch.zeros(1), torch.cat(wanted)) == pytest.approx(1, abs=0.1)
    after = {name.replace(".base_layer", ""): value for name, value in weight_hashes(loaded.model).items()}
    assert {name: after[name] for name in weights} == weights


@pytest.mark.parametrize("dtype", HALF)
def test_a_new_adapter_is_trained_as_it_is_evaluated(base: ModelIdentity, dtype: str, tmp_path: Path) -> None:
    """Logits and gradients of a training step are those of the same adapter once it is loaded."""
    loaded = load_model(base, dtype=dtype, device="cpu")
    options = TrainingOptions(
        learning_rate=1e-3, batch_size=1, rank=4, alpha=8, target_modules="all-linear", seed=0, checkpoint_steps=1,
        batch_tokens=64, epochs=1,
    )  # fmt: skip
    trained = _with_adapter(loaded, options)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=1e-4)
    trained.save_pretrained(tmp_path)
    evaluated = load_model(base, dtype=dtype, device="cpu")
    apply_adapter(evaluated, resolve_adapter(str(tmp_path), adapters=tmp_path), base)
    ids = torch.tensor(make_rows([30])[0].ids[None].astype(np.int64))
    logits = trained(input_ids=ids).logits
    assert torch.equal(logits, evaluated.model(input_ids=ids).logits)
    logits.float().square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", HALF)
def test_gradients_are_those_of_float32_within_half_s_digits(base: ModelIdentity, dtype: str, tmp_path: Path) -> None:
    """Features of an adapter that is large enough to matter: with s·BA the model's answers are others."""
    adapter = make_adapter(base, tmp_path, size=0.3)
    rows = make_rows([9, 30, 5, 17])

    def features(dtype: str, *, probe: str = "sum") -> Any:
        loaded = load_model(base, dtype=dtype, device="cpu")
        layers = load_adapter(loaded, adapter, base)
        return make_engine(loaded, layers, probe=probe).features(
            rows, positions="targets" if probe == "loss" else "completion"
        )

    for probe in ("sum", "loss"):
        found, expected = features(dtype, probe=probe), features("float32", probe=probe)
        cosine = torch.cosine_similarity(found.sketch, expected.sketch)
        assert float(cosine.min()) > (0.99 if dtype == "bfloat16" else 0.9995)
        np.testing.assert_allclose(found.norm, expected.norm, rtol=0.05)


@pytest.mark.parametrize("dtype", HALF)
def test_gradients_of_some_layers_are_of_the_whole_model(base: ModelIdentity, dtype: str, tmp_path: Path) -> None:
    """Blocks that --layers leaves out have no gradients, and go on computing with their part of the adapter."""
    adapter = make_adapter(base, tmp_path, size=0.3)
    rows = make_rows([9, 30, 5, 17])

    def features(dtype: str) -> Any:
        loaded = load_model(base, dtype=dtype, device="cpu")
        layers = only_layers(load_adapter(loaded, adapter, base), "last:1")
        return make_engine(loaded, layers).features(rows, positions="completion")

    found, expected = features(dtype), features("float32")
    assert float(torch.cosine_similarity(found.sketch, expected.sketch).min()) > 0.99
    np.testing.assert_allclose(found.norm, expected.norm, rtol=0.05)


def test_float32_beside_equals_merged(base: ModelIdentity, tmp_path: Path) -> None:
    """The path beside the weights is exact: in float32 it gives what the merged one does."""
    adapter = make_adapter(base, tmp_path, size=0.3)
    rows = make_rows([9, 30, 5, 17])
    merged = load_model(base, dtype="float32", device="cpu")
    expected = make_engine(merged, load_adapter(merged, adapter, base)).features(rows, positions="completion")
    loaded = load_model(base, dtype="float32", device="cpu")
    layers = [
        AdaptedLayer(one.name, loaded.model.get_submodule(one.name), one.a, one.b, one.scale, merged=False)
        for one in load_adapter(load_model(base, dtype="float32", device="cpu"), adapter, base)
    ]
    found = make_engine(loaded, layers).features(rows, positions="completion")
    np.testing.assert_allclose(found.sketch, expected.sketch, atol=2e-5)
    np.testing.assert_allclose(found.norm, expected.norm, rtol=1e-4)


def test_exact_scores_in_bfloat16_are_close_to_float32(base: ModelIdentity, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path, size=0.3)
    rows: list[Encoded] = make_rows([9, 30, 5, 17, 12, 21])
    settings = GradientSettings(
        kind="loss", positions="completion", probe="sum", probes=1, projection="none", dim=1, seed=0, layers="all",
        rank=1, target_modules="", adapter_seed=0,
    )  # fmt: skip

    def scores(dtype: str) -> Any:
        loaded = load_model(base, dtype=dtype, device="cpu")
        weights = weight_hashes(loaded.model)
        scorer = ExactScorer(loaded, model=base, adapter=adapter, settings=settings)
        scorer.learn(rows[:3])
        found = scorer.score(rows[3:])
        assert dtype == "float32" or weight_hashes(loaded.model) == weights
        return found

    np.testing.assert_allclose(scores("bfloat16"), scores("float32"), rtol=0.1, atol=1e-3)
