"""Rotary positions that look at the longest row of a batch: every row is what it is alone, in every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import plan_batches
from ntkcli.engine.evaluation.generation import generate_greedily
from ntkcli.engine.evaluation.loglikelihood import choice_logliks
from ntkcli.engine.features.exact_scores import ExactScorer
from ntkcli.engine.features.extract import Extractor, GradientSettings, embedding_extractor, gradient_extractor
from ntkcli.engine.memory import TokenBudget
from ntkcli.engine.models.adapters import fresh_adapter
from ntkcli.engine.models.loading import LoadedModel, load_model
from ntkcli.engine.rope import length_classes
from ntkcli.engine.training.loss import StepLoss, collate
from ntkcli.identity import ModelIdentity, resolve_model
from tests.conftest import make_tokenizer
from tests.engine.kit import make_rows

LIMIT = 16
LENGTHS = [16, 9, 17, 30, 12, 40, 5, 16, 30]
COMMON = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 100.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "longrope": (
        "phi3",
        {"max_position_embeddings": 256, "original_max_position_embeddings": LIMIT, "pad_token_id": 0}
        | {"rope_parameters": {**LONG, "original_max_position_embeddings": LIMIT, "partial_rotary_factor": 1.0}},
    ),
    "dynamic": (
        "llama",
        {"max_position_embeddings": LIMIT}
        | {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}},
    ),
    "longrope_llama": (
        "llama",
        {"max_position_embeddings": 256} | {"rope_parameters": {**LONG, "original_max_position_embeddings": LIMIT}},
    ),
}
SETTINGS = GradientSettings(
    kind="loss", positions="completion", probe="sum", probes=1, projection="sjlt", dim=256, seed=0, layers="all",
    rank=2, target_modules="all-linear", adapter_seed=0,
)  # fmt: skip


@pytest.fixture(scope="module", params=list(MODELS))
def identity(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelIdentity:
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = MODELS[request.param]
    tokenizer, folder = make_tokenizer(), tmp_path_factory.mktemp(request.param)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), intermediate_size=48, **COMMON, **settings)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return resolve_model(str(folder))


def load(identity: ModelIdentity) -> LoadedModel:
    return load_model(identity, dtype="float32", device="cpu")


def alone(identity: ModelIdentity, row: Encoded) -> Any:
    """Of a model that has seen nothing else: transformers' own logits and hidden states of the whole row."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(identity.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor(row.ids[None].astype(np.int64)), output_hidden_states=True)


def loss_alone(identity: ModelIdentity, row: Encoded) -> tuple[float, int]:
    """Cross-entropy summed over the supervised tokens, and how many they are."""
    logits = torch.log_softmax(alone(identity, row).logits[0], dim=-1)
    where = np.flatnonzero(row.supervised)
    return -float(sum(logits[i - 1, row.ids[i]] for i in where)), len(where)


def test_a_batch_holds_rows_of_one_class(identity: ModelIdentity) -> None:
    classes = length_classes(load(identity).model.config)
    assert classes is not None
    batches = plan_batches(LENGTHS, 10_000, classes)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(LENGTHS)))
    for where in batches:
        inside = {LENGTHS[i] for i in where}
        assert max(inside) <= LIMIT or min(inside) > LIMIT
    assert [max(LENGTHS[i] for i in where) for where in batches] == sorted(
        (max(LENGTHS[i] for i in where) for where in batches), reverse=True
    )


def test_embeddings(identity: ModelIdentity) -> None:
    rows = make_rows(LENGTHS)
    extractor = embedding_extractor(
        load(identity), model=identity, adapter=None, positions="completion", pooling="mean", batch_tokens=10_000
    )
    found = extractor.vectors(rows, on_batch=lambda rows, tokens: None)
    for i, row in enumerate(rows):
        hidden = alone(identity, row).hidden_states[-1][0]
        mean = hidden[:-1][torch.tensor(row.supervised[1:])].mean(dim=0)
        np.testing.assert_allclose(found.unit[i] * found.norm[i], mean, rtol=1e-3, atol=1e-4)


def test_gradients_and_exact_scores(identity: ModelIdentity) -> None:
    """Norms against plain autograd through transformers' model; batches against one row at a time."""
    rows = make_rows(LENGTHS)

    def extractor(budget: int) -> Extractor:
        return gradient_extractor(load(identity), model=identity, adapter=None, settings=SETTINGS, batch_tokens=budget)

    together = extractor(10_000).vectors(rows, on_batch=lambda rows, tokens: None)
    one_by_one = extractor(1).vectors(rows, on_batch=lambda rows, tokens: None)
    np.testing.assert_allclose(together.unit, one_by_one.unit, atol=1e-4)
    loaded = load(identity)
    layers = fresh_adapter(loaded.model, rank=2, target_modules="all-linear", seed=0)
    for i, row in enumerate(rows):
        weights = [layer.weight.requires_grad_(True) for layer in layers if layer.weight is not None]
        ids = torch.tensor(row.ids[None].astype(np.int64))
        logits = loaded.model(input_ids=ids).logits[0]
        answer = torch.tensor(row.supervised[1:])
        value = torch.nn.functional.cross_entropy(logits[:-1][answer], ids[0, 1:][answer])
        grads = torch.autograd.grad(value, weights)  # dB = dW A^T
        norm = sum(float((g @ layer.a.T).square().sum()) for g, layer in zip(grads, layers, strict=True)) ** 0.5
        np.testing.assert_allclose(together.norm[i], norm, rtol=1e-3)
    scores = []
    for budget in (10_000, 1):
        scorer = ExactScorer(load(identity), model=identity, adapter=None, settings=SETTINGS, batch_tokens=budget)
        scorer.learn(rows[:4])
        scores.append(scorer.score(rows[4:]))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3, atol=1e-5)


def test_likelihoods_of_choices(identity: ModelIdentity) -> None:
    """Choices of which one goes over the limit and the others do not."""
    prompt = make_rows([LIMIT - 3])[0]
    items = []
    for lengths in ([1, 2, 3, 4], [5, 2]):
        choices = []
        for number, length in enumerate(lengths):
            ids = np.concatenate([prompt.ids, make_rows([length], seed=number)[0].ids]).astype(np.int32)
            choices.append(Encoded(ids, np.arange(len(ids)) >= len(prompt), truncated=False))
        items.append(choices)
    items += [[row] for row in make_rows(LENGTHS)]
    found = choice_logliks(load(identity), items, budget=TokenBudget(10_000))
    for choices, sums in zip(items, found.sums, strict=True):
        np.testing.assert_allclose(sums, [-loss_alone(identity, choice)[0] for choice in choices], rtol=1e-3, atol=1e-3)


def test_a_training_step(identity: ModelIdentity) -> None:
    rows = make_rows(LENGTHS)
    loaded = load(identity)
    weight = loaded.model.get_input_embeddings().weight.requires_grad_(True)
    for budget in (10_000, 1):
        loss = StepLoss(loaded.model, budget_tokens=budget).backward(collate(rows, 0), lambda loss: loss.backward())
        totals = [loss_alone(identity, row) for row in rows]
        assert float(loss) == pytest.approx(sum(t for t, _ in totals) / sum(n for _, n in totals), rel=1e-4)
    assert weight.grad is not None


def test_generated_answers(identity: ModelIdentity) -> None:
    prompts = make_rows([8, 12, 15, 20, 20])
    together = generate_greedily(load(identity), prompts, stop_ids=[], max_new_tokens=8, budget=TokenBudget(10_000))
    for prompt, tokens in zip(prompts, together, strict=True):
        (own,) = generate_greedily(load(identity), [prompt], stop_ids=[], max_new_tokens=8, budget=TokenBudget(10_000))
        assert tokens == own


def test_plain_rotary_positions_are_batched_as_ever(model_dir: Path) -> None:
    assert length_classes(load_model(resolve_model(str(model_dir)), dtype="float32", device="cpu").model.config) is None
