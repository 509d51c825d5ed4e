"""Every architecture, loaded from its folder, against a float64 loop of one row through the whole model and its logits.

The loop runs on eager attention, row by row and without padding; the engine on what transformers picks (sdpa), batched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.engine.features.embeddings import EmbeddingEngine
from ntkcli.engine.gradients.probes import direction
from ntkcli.engine.models.adapters import fresh_adapter
from ntkcli.engine.models.loading import LoadedModel, decoder_of, head_form, head_logits, load_model
from ntkcli.errors import UsageError
from ntkcli.identity import resolve_model
from tests.conftest import make_tokenizer
from tests.engine import zoo
from tests.engine.kit import SEED, adapter_layers, assert_equal, load, make_engine, make_rows, one_row_loop

ALL = {**dict.fromkeys(zoo.DENSE, "all-linear"), **dict.fromkeys(zoo.EXPERTS, zoo.ATTENTION)}
LENGTHS = [5, 12, 3, 9]


def from_folder(name: str, folder: Path) -> LoadedModel:
    zoo.build(name).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return load_model(resolve_model(str(folder)), dtype="float32", device="cpu")


@pytest.mark.parametrize("name", list(ALL))
def test_gradients_equal_a_one_row_loop(name: str, tmp_path: Path) -> None:
    """A trained adapter: the sum of the logits, a centred probe, and the loss."""
    rows = make_rows(LENGTHS)
    loaded = from_folder(name, tmp_path)
    layers = adapter_layers(loaded.model, warm=True, target_modules=ALL[name])
    for probe in ("sum", "centred", "loss"):
        v = direction("centred", zoo.VOCABULARY, seed=SEED, number=0) if probe == "centred" else None
        expected = one_row_loop(name, layers, rows, "loss" if probe == "loss" else "completion", v=v)
        engine = make_engine(loaded, layers, probe=probe)
        found = engine.features(rows, positions="targets" if probe == "loss" else "completion")
        assert_equal(found, expected, tolerance=3)


@pytest.mark.parametrize("name", list(ALL))
def test_gradients_of_a_fresh_adapter_and_embeddings(name: str) -> None:
    rows = make_rows(LENGTHS)
    loaded = load(name)
    hidden = decoder_of(zoo.build_double(name))
    embedded, norms = EmbeddingEngine(loaded, pooling="mean").features(rows, positions="all")
    for i, row in enumerate(rows):
        ids = torch.tensor(row.ids[None].astype(np.int64))
        mean = hidden(input_ids=ids).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close((embedded[i] * norms[i]).double(), mean, rtol=1e-3, atol=1e-4)
    layers = adapter_layers(loaded.model, warm=False, target_modules=ALL[name])
    expected = one_row_loop(name, layers, rows, "all")
    assert_equal(make_engine(loaded, layers).features(rows, positions="all"), expected, tolerance=3)


@pytest.mark.parametrize("name", list(ALL))
def test_logits_from_hidden_states_are_the_model_s_own(name: str) -> None:
    """What loss, evaluation and training rely on: head_logits after the decoder, whatever the model is called."""
    model = zoo.build(name)
    ids = torch.arange(3, 23).reshape(2, 10)
    hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(head_logits(model, hidden), model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def test_heads_are_told_by_what_they_do() -> None:
    forms = {name: head_form(zoo.build(name)) for name in zoo.DENSE}
    capped = {name: form.cap for name, form in forms.items() if form.cap}
    assert capped == dict.fromkeys(("gemma2_softcap", "gemma3_text_softcap", "recurrent_gemma_softcap"), 1.5)
    factors = {name: form.factor for name, form in forms.items() if form.factor != 1.0}
    assert factors == {
        "cohere_scaled": 0.25,
        "cohere2_scaled": 0.25,
        "granite_divided": 0.125,
        "minicpm3_scaled_states": 0.25,
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_are_told_in_16_bits_too(dtype: torch.dtype) -> None:
    for name in ("llama", "gemma2_softcap", "granite_divided", "minicpm3_scaled_states"):
        exact, found = head_form(zoo.build(name)), head_form(zoo.build(name).to(dtype))
        assert (found.cap is None) == (exact.cap is None)
        assert found.cap is None or found.cap == pytest.approx(exact.cap, rel=1e-2)
        assert found.factor == pytest.approx(exact.factor, rel=1e-2)


def test_a_soft_capped_head_needs_its_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path through the logits is taken for the cap, and not for a linear head."""
    from ntkcli.engine.gradients import probes

    blocks: list[str] = []
    real = probes._through_logits

    def watched(*arguments: Any) -> torch.Tensor:
        blocks.append("logits")
        return real(*arguments)

    monkeypatch.setattr(probes, "_through_logits", watched)
    for name, taken in (("gemma2_softcap", ["logits"]), ("gemma2_no_cap", []), ("cohere_scaled", [])):
        loaded, blocks[:] = load(name), []
        engine = make_engine(loaded, adapter_layers(loaded.model, warm=False))
        engine.features(make_rows([4, 6]), positions="completion")
        assert blocks == taken


@pytest.mark.parametrize("change", ["power", "slice", "states", "skip", "look_ahead"])
def test_a_model_that_does_something_else_is_refused_by_name(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.build("llama")
    real = type(model).forward

    def forward(self: Any, **inputs: Any) -> Any:
        output = real(self, **inputs)
        if change == "skip":
            output.logits = self.lm_head.weight.sum() + self.model(input_ids=inputs["input_ids"]).last_hidden_state
        output.logits = output.logits.sinh() if change == "power" else output.logits
        output.logits = output.logits[..., :-1] if change == "slice" else output.logits
        return output

    monkeypatch.setattr(type(model), "forward", forward)
    if change == "states":
        model.lm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0].abs(),))
    if change == "look_ahead":
        model.model.norm.register_forward_hook(lambda _, __, output: output + output.mean(dim=1, keepdim=True))
    with pytest.raises(UsageError, match="LlamaForCausalLM"):
        head_form(model)


def test_a_model_that_calls_its_head_the_decoder_is_refused_by_name() -> None:
    from transformers import ModernBertDecoderConfig, ModernBertDecoderForCausalLM

    sizes = {"vocab_size": zoo.VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    model = ModernBertDecoderForCausalLM(ModernBertDecoderConfig(**sizes, **tokens))
    with pytest.raises(UsageError, match="ModernBertDecoderForCausalLM has no decoder apart from its head"):
        head_form(model)


@pytest.mark.parametrize("name", list(zoo.EXPERTS))
def test_fused_experts_are_refused_by_name_with_the_mend(name: str) -> None:
    with pytest.raises(UsageError, match=r"experts") as refused:
        fresh_adapter(zoo.build(name), rank=2, target_modules="all-linear", seed=0)
    assert zoo.ATTENTION in str(refused.value.fix)


def test_a_layer_that_sees_tokens_without_their_rows_is_refused_by_name() -> None:
    loaded = load("qwen2_moe")
    layers = fresh_adapter(loaded.model, rank=2, target_modules="q_proj,up_proj", seed=0)
    with pytest.raises(UsageError, match=r"shared_expert\.up_proj is given its tokens without their rows"):
        make_engine(loaded, layers).features(make_rows([4, 5]), positions="all")


def test_a_layer_that_runs_twice_or_never_is_refused_by_name() -> None:
    loaded = load("llama")
    loaded.model.model.layers[1] = loaded.model.model.layers[0]  # shared blocks, as ALBERT's
    layers = fresh_adapter(loaded.model, rank=2, target_modules="q_proj", seed=0)
    with pytest.raises(UsageError, match=r"layers\.0\.self_attn\.q_proj runs twice"):
        make_engine(loaded, layers).features(make_rows([4]), positions="all")
    loaded = load("llama")
    loaded.model.model.layers[1].forward = lambda hidden, *_, **__: hidden
    layers = fresh_adapter(loaded.model, rank=2, target_modules="q_proj", seed=0)
    with pytest.raises(UsageError, match=r"layers\.1\.self_attn\.q_proj took no part"):
        make_engine(loaded, layers).features(make_rows([4]), positions="all")


def test_adapters_of_an_image_encoder_are_left_alone() -> None:
    """`all-linear` is the language model's; features are over text, which never passes the image encoder."""
    layers = fresh_adapter(zoo.build("gemma3_images"), rank=2, target_modules="all-linear", seed=0)
    assert len(layers) == 14
    assert all("language_model" in layer.name for layer in layers)
