"""Every LoRA variant of peft, and other kinds of adapters: as peft computes, or refused by name; the base stays."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.data.encoding import Encoded
from ntkcli.engine.evaluation.evaluator import Evaluator
from ntkcli.engine.features.extract import embedding_extractor
from ntkcli.engine.models.adapters import load_adapter
from ntkcli.engine.models.attach import attach_adapter, weight_hashes
from ntkcli.engine.models.loading import load_model
from ntkcli.engine.training.train import TrainingOptions, train_adapter
from ntkcli.engine.training.trainer import TrainingRows
from ntkcli.errors import SpecError, UsageError
from ntkcli.identity import AdapterIdentity, resolve_adapter, resolve_model
from ntkcli.progress import Silent
from tests.conftest import save_model
from tests.engine.kit import assert_equal, make_engine, make_rows, peft_gradients

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's, of what a variant can't do
QV = {"target_modules": ["q_proj", "v_proj"]}
LORA: dict[str, dict[str, Any]] = {
    "plain": QV,
    "regex": {"target_modules": r".*layers\.[01]\.self_attn\.(q|v)_proj"},
    "one_block": {**QV, "layers_to_transform": [1]},
    "rank_pattern": {**QV, "use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    "dropout": {**QV, "lora_dropout": 0.5},
    "gaussian": {**QV, "init_lora_weights": "gaussian"},
    "orthogonal": {**QV, "init_lora_weights": "orthogonal"},
    "pissa": {**QV, "init_lora_weights": "pissa"},
    "pissa_niter": {**QV, "init_lora_weights": "pissa_niter_4"},
    "olora": {**QV, "init_lora_weights": "olora"},
    "bias_all": {**QV, "bias": "all"},
    "bias_lora": {**QV, "bias": "lora_only"},
    "lora_bias": {**QV, "lora_bias": True},
    "embedding_whole": {**QV, "modules_to_save": ["embed_tokens"]},
    "both_whole": {**QV, "modules_to_save": ["embed_tokens", "lm_head"]},
    "some_tokens": {**QV, "trainable_token_indices": [3, 70]},
    "repeated_blocks": {**QV, "layer_replication": [[0, 2], [1, 2]]},
    "dora": {**QV, "use_dora": True},
    "mica": {**QV, "init_lora_weights": "mica"},
    "kasa": {**QV, "kasa": True},
    "parameters": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
}
NO_GRADIENTS = {
    "dora": "Dora",
    "mica": "MiCA",
    "kasa": "Kasa",
    "parameters": "adapts parameters",
    "head": r"sits on lm_head, outside of the decoder",
    "embedding": r"sits on the embedding model\.embed_tokens",
    "ia3": "is a IA3 adapter",
    "loha": "is a LOHA adapter",
}


def config_of(name: str) -> Any:
    from peft import IA3Config, LoHaConfig, LoraConfig

    if name == "ia3":
        return IA3Config(
            task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
        )
    if name == "loha":
        return LoHaConfig(task_type="CAUSAL_LM", r=4, alpha=8, target_modules=["q_proj"])
    settings = dict(LORA[name])
    if settings.pop("kasa", None):
        from peft.tuners.lora.config import KasaConfig

        settings["kasa_config"] = KasaConfig()
    return LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)


NAMES = [*LORA, "ia3", "loha"]


class Shelf:
    """Two base models, tied and not, and adapters made for them once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.models = {
            tied: resolve_model(
                str(save_model(folder / f"tied{tied}", tie_word_embeddings=tied, attention_bias=True, mlp_bias=True))
            )
            for tied in (False, True)
        }

    def adapter(self, name: str, *, tied: bool) -> AdapterIdentity:
        """Trained as if: every trainable weight is moved."""
        from peft import get_peft_model

        folder = self._folder / f"{name}-{tied}"
        if not folder.is_dir():
            base = load_model(self.models[tied], dtype="float32", device="cpu").model
            torch.manual_seed(3)
            model = get_peft_model(base, config_of(name))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.2 * torch.randn(parameter.shape))
            model.save_pretrained(folder)
        return resolve_adapter(str(folder), adapters=folder)

    def peft_model(self, name: str, *, tied: bool, trainable: bool = False) -> Any:
        """peft's own, loaded as its manual says; seeded as ours, for what it draws."""
        from peft import PeftModel

        base = load_model(self.models[tied], dtype="float32", device="cpu").model
        folder = self.adapter(name, tied=tied).folder
        torch.manual_seed(0)
        return PeftModel.from_pretrained(base, str(folder), is_trainable=trainable).eval()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


def rows() -> list[Encoded]:
    return make_rows([5, 12, 3, 9])


def likelihoods(model: Any, items: list[Encoded]) -> list[float]:
    """Of each row's supervised tokens, one row at a time, by the model's own logits."""
    found = []
    for row in items:
        ids = torch.tensor(row.ids.astype(np.int64))
        with torch.no_grad():
            logits = torch.log_softmax(model(input_ids=ids[None]).logits[0].float(), dim=-1)
        answer = np.flatnonzero(row.supervised)
        found.append(float(sum(logits[i - 1, ids[i]] for i in answer)))
    return found


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_embeddings_are_peft_s_or_refused(shelf: Shelf, name: str, tied: bool) -> None:
    adapter, model = shelf.adapter(name, tied=tied), shelf.models[tied]
    loaded = load_model(model, dtype="float32", device="cpu")
    if name in NO_GRADIENTS:
        with pytest.raises(UsageError, match=NO_GRADIENTS[name]):
            make_engine(loaded, load_adapter(loaded, adapter, model))
    else:
        found = make_engine(loaded, load_adapter(loaded, adapter, model), probe="loss").features(
            rows(), positions="targets"
        )
        assert_equal(found, peft_gradients(shelf.peft_model(name, tied=tied), rows()), tolerance=3)
    extractor = embedding_extractor(
        load_model(model, dtype="float32", device="cpu"),
        model=model,
        adapter=adapter,
        positions="all",
        pooling="mean",
        batch_tokens=64,
    )
    embedded = extractor.vectors(rows(), on_batch=lambda rows, tokens: None)
    decoder = shelf.peft_model(name, tied=tied).base_model.model.get_decoder()
    for i, row in enumerate(rows()):
        with torch.no_grad():
            mean = decoder(input_ids=torch.tensor(row.ids[None].astype(np.int64))).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(embedded.unit[i] * embedded.norm[i], mean.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_runs_after_one_another_are_what_they_are_alone(shelf: Shelf, tied: bool) -> None:
    """Each run before the bare model, before its neighbour and after it: peft's values, and the same bytes."""
    model, items = shelf.models[tied], rows()
    evaluator = Evaluator(load_model(model, dtype="float32", device="cpu"), None, batch_tokens=64)  # type: ignore[arg-type]
    weights = weight_hashes(evaluator.loaded.model)
    alone = {name: likelihoods(shelf.peft_model(name, tied=tied), items) for name in NAMES}
    bare = likelihoods(load_model(model, dtype="float32", device="cpu").model, items)
    seen: dict[str, list[bytes]] = {name: [] for name in ("", *NAMES)}
    for name in [*(one for run in NAMES for one in (run, "")), *NAMES, *reversed(NAMES)]:
        evaluator.use(shelf.adapter(name, tied=tied) if name else None, model)
        found = np.array(evaluator.logliks([[row] for row in items]))[:, 0]
        np.testing.assert_allclose(found, alone[name] if name else bare, rtol=1e-4, atol=1e-4, err_msg=name)
        seen[name].append(found.tobytes())
    evaluator.use(None, model)
    assert weight_hashes(evaluator.loaded.model) == weights
    assert {name: len(set(found)) for name, found in seen.items()} == dict.fromkeys(seen, 1)


def test_every_order_of_the_three_that_change_the_base(shelf: Shelf) -> None:
    model, items = shelf.models[False], rows()
    names = ("pissa", "bias_all", "both_whole")
    alone = {name: likelihoods(shelf.peft_model(name, tied=False), items) for name in names}
    evaluator = Evaluator(load_model(model, dtype="float32", device="cpu"), None, batch_tokens=64)  # type: ignore[arg-type]
    for order in permutations(names):
        for name in order:
            evaluator.use(shelf.adapter(name, tied=False), model)
            found = np.array(evaluator.logliks([[row] for row in items]))[:, 0]
            np.testing.assert_allclose(found, alone[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["pissa", "bias_all", "lora_bias", "both_whole", "some_tokens", "repeated_blocks", "dora", "head", "embedding"],
)
def test_training_goes_on_from_what_peft_computes(shelf: Shelf, name: str, tmp_path: Path) -> None:
    """The loss of the first step is that of peft's model, and what is saved evaluates as peft loads it."""
    model, items = shelf.models[False], rows()
    options = TrainingOptions(
        learning_rate=1e-2, batch_size=len(items), rank=4, alpha=8, target_modules="", seed=0, checkpoint_steps=10,
        batch_tokens=64, epochs=3, init=shelf.adapter(name, tied=False),
    )  # fmt: skip
    losses: list[float] = []
    train_adapter(
        load_model(model, dtype="float32", device="cpu"),
        TrainingRows(items, [str(i) for i in range(len(items))]),
        options=options,
        folder=tmp_path,
        on_step=lambda step: losses.append(step.loss),
        progress=Silent(),
        resume_at_most=0,
    )
    from peft import PeftModel

    supervised = sum(int(row.supervised.sum()) for row in items)
    expected = -sum(likelihoods(shelf.peft_model(name, tied=False), items)) / supervised
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    base = load_model(model, dtype="float32", device="cpu").model
    torch.manual_seed(0)
    trained = likelihoods(PeftModel.from_pretrained(base, str(tmp_path)).eval(), items)
    evaluator = Evaluator(load_model(model, dtype="float32", device="cpu"), None, batch_tokens=64)  # type: ignore[arg-type]
    evaluator.use(resolve_adapter(str(tmp_path), adapters=tmp_path), model)
    np.testing.assert_allclose(np.array(evaluator.logliks([[row] for row in items]))[:, 0], trained, rtol=1e-4)
    assert -sum(trained) / supervised < expected


def test_what_can_t_be_had_from_its_files_is_refused_by_name(shelf: Shelf, tmp_path: Path) -> None:
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    def saved(name: str, config: Any) -> AdapterIdentity:
        base = load_model(shelf.models[False], dtype="float32", device="cpu").model
        get_peft_model(base, config).save_pretrained(tmp_path / name)
        return resolve_adapter(str(tmp_path / name), adapters=tmp_path)

    prompts = saved("prompts", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    tokens = saved("tokens", LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=[1], **QV))
    for adapter, reason in ((prompts, "is a PROMPT_TUNING adapter"), (tokens, "aLoRA")):
        with pytest.raises(UsageError, match=reason):
            attach_adapter(load_model(shelf.models[False], dtype="float32", device="cpu").model, adapter)
    config = tmp_path / "tokens" / "adapter_config.json"
    for initial, fix in (
        ("lora_ga", "path_initial_model"),
        ("corda", "path_initial_model"),
        ("loftq", "--device cuda"),
    ):
        text = config.read_text().replace('"alora_invocation_tokens": [\n    1\n  ]', '"alora_invocation_tokens": null')
        config.write_text(text.replace('"init_lora_weights": true', f'"init_lora_weights": "{initial}"'))
        with pytest.raises(UsageError, match=rf"{initial}.*{fix}"):
            attach_adapter(load_model(shelf.models[False], dtype="float32", device="cpu").model, tokens)
        config.write_text(text)
    config.write_text('{"peft_type": ')
    with pytest.raises(UsageError, match="is not JSON"):
        attach_adapter(load_model(shelf.models[False], dtype="float32", device="cpu").model, tokens)
    with pytest.raises((SpecError, UsageError)):
        attach_adapter(
            load_model(
                resolve_model(str(save_model(tmp_path / "wide", hidden_size=64))), dtype="float32", device="cpu"
            ).model,
            shelf.adapter("plain", tied=False),
        )
