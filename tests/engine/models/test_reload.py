"""A model that is loaded again is not in memory twice, even with Python's collector of circles switched off."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ntkcli.engine.evaluation import evaluator
from ntkcli.engine.models import merging
from ntkcli.engine.models.loading import LoadedModel, load_model
from ntkcli.identity import AdapterIdentity, ModelIdentity, resolve_adapter, resolve_model
from tests.conftest import make_tokenizer, save_model

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's, and of half precision


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelIdentity, AdapterIdentity]:
    """A model in bfloat16, and an adapter with an output layer that was trained whole."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("made")
    whole = resolve_model(str(save_model(folder / "whole", tie_word_embeddings=False)))
    base = load_model(whole, dtype="bfloat16", device="cpu").model
    base.save_pretrained(folder / "half")
    make_tokenizer().save_pretrained(folder / "half")
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    attached = get_peft_model(base, config)
    with torch.no_grad():
        for weight in attached.parameters():
            weight.add_(0.1 * weight.requires_grad)
    attached.save_pretrained(folder / "a")
    return resolve_model(str(folder / "half")), resolve_adapter(str(folder / "a"), adapters=folder)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Loads:
    """Stands in for `load_model`: at each load, how many weights of the one before are still there."""

    def __init__(self) -> None:
        self.alive: list[int] = []
        self._before: list[Any] = []

    def __call__(self, *given: Any, **how: Any) -> LoadedModel:
        self.alive.append(sum(weight() is not None for weight in self._before))
        loaded = load_model(*given, **how)
        self._before = [weakref.ref(weight) for weight in loaded.model.parameters()]
        return loaded


@pytest.mark.usefixtures("no_collector")
def test_an_evaluation(made: tuple[ModelIdentity, AdapterIdentity], monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads()
    monkeypatch.setattr(evaluator, "load_model", loads)
    model, adapter = made
    no_encoder: Any = None  # nothing is evaluated
    judge = evaluator.Evaluator(loads(model, dtype="bfloat16", device="cpu"), no_encoder, batch_tokens=64)
    judge.use(adapter, model)
    judge.use(None, model)
    assert loads.alive == [0, 0]


@pytest.mark.usefixtures("no_collector")
def test_a_merge(made: tuple[ModelIdentity, AdapterIdentity], monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads()
    monkeypatch.setattr(merging, "load_model", loads)
    merging.merged_model(*made, dtype="bfloat16")
    assert loads.alive == [0, 0]
