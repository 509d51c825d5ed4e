"""What benchmarks/featurize.py runs: each contender takes a batch of encoded rows and does its work on it, no more.

All share one set of frozen weights: `twin` copies a model's modules, not its parameters.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import one_text_a_row, pad
from ntkcli.engine.features.embeddings import EmbeddingEngine
from ntkcli.engine.gradients.probes import LogitProbe, LossProbe
from ntkcli.engine.gradients.projections import make_projection
from ntkcli.engine.gradients.row_gradients import Features, GradientEngine
from ntkcli.engine.gradients.sketch import Sketch
from ntkcli.engine.models.adapters import AdaptedLayer, fresh_adapter
from ntkcli.engine.models.loading import LoadedModel, decoder_of
from ntkcli.engine.training.loss import collate

Run = Callable[[Sequence[Encoded]], object]
RANK, DIM = 16, 8192
_SMALL_TARGETS = "q_proj,v_proj"
"""For the exact gradients of projection `none`, which are kept whole."""


def twin(loaded: LoadedModel) -> LoadedModel:
    """The same model with modules of its own, so that what patches one leaves the other; the weights are shared."""
    shared = {id(tensor): tensor for tensor in (*loaded.model.parameters(), *loaded.model.buffers())}
    return replace(loaded, model=copy.deepcopy(loaded.model, shared))


def bound(loaded: LoadedModel) -> Run:
    """The frozen model's forward and its backward through the activations: what no engine of this kind can beat."""
    loaded = twin(loaded)
    decoder, embed = decoder_of(loaded.model), loaded.model.get_input_embeddings()

    def run(rows: Sequence[Encoded]) -> None:
        batch = pad(rows, positions="completion", pad_id=0, device=loaded.device)
        x = embed(batch.ids).requires_grad_(True)
        with one_text_a_row():
            hidden = decoder(inputs_embeds=x, use_cache=False).last_hidden_state
        torch.autograd.backward(hidden, batch.weight[..., None].to(hidden.dtype).expand_as(hidden))

    return run


def ntksel(
    loaded: LoadedModel,
    *,
    trained: bool = True,
    probe: str = "sum",
    probes: int = 1,
    projection: str = "sjlt",
    plain_sketch: bool = False,
) -> Callable[[Sequence[Encoded]], Features]:
    """`ntksel featurize` without reading and writing; a trained adapter has B ≠ 0.

    `plain_sketch`: the sketch by many small operations, also on CUDA.
    """
    loaded = twin(loaded)
    targets = _SMALL_TARGETS if projection == "none" else "all-linear"
    layers = fresh_adapter(loaded.model, rank=RANK, target_modules=targets, seed=0)
    if trained:
        torch.manual_seed(0)
        layers = [
            AdaptedLayer(x.name, x.module, x.a, 0.01 * torch.randn(x.weight.shape[0], RANK, device=x.a.device), 1.0)
            for x in layers
        ]
    directions: list[LogitProbe | LossProbe] = [LossProbe(loaded.model)]
    if probe != "loss":
        directions = [LogitProbe(loaded.model, probe, number=k) for k in range(probes)]
    onto = make_projection(projection, dim=DIM, seed=0, device=loaded.device)
    if plain_sketch:
        onto = Sketch(DIM, 0, loaded.device)
    engine = GradientEngine(loaded, layers, projection=onto, probes=directions)
    positions = "targets" if probe == "loss" else "completion"

    def run(rows: Sequence[Encoded]) -> Features:
        return engine.features(rows, positions=positions)

    return run


def embedding(loaded: LoadedModel) -> Run:
    """`ntksel featurize --kind embed`: a forward."""
    engine = EmbeddingEngine(twin(loaded), pooling="mean")

    def run(rows: Sequence[Encoded]) -> None:
        engine.features(rows, positions="all")

    return run


def _with_lora(loaded: LoadedModel) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(twin(loaded).model, config)


def lora_step(loaded: LoadedModel) -> Run:
    """A plain training step with peft, without the optimizer: forward with the loss, backward."""
    model = _with_lora(loaded)

    def run(rows: Sequence[Encoded]) -> None:
        model(**{name: x.to(loaded.device) for name, x in collate(rows, 0).items()}).loss.backward()
        model.zero_grad()

    return run


def one_row_loop(loaded: LoadedModel, *, dense: bool) -> Run:
    """Per-example gradients as LESS makes them: a training step a row, then a dense random projection of the whole."""
    model = _with_lora(loaded)
    trained = [p for p in model.parameters() if p.requires_grad]
    project = make_projection("rademacher", dim=DIM, seed=0, device=loaded.device)
    factors = [project.factor(str(i), *p.shape) for i, p in enumerate(trained)] if dense else []

    def run(rows: Sequence[Encoded]) -> None:
        for row in rows:
            model(**{name: x.to(loaded.device) for name, x in collate([row], 0).items()}).loss.backward()
            total = project.zeros(1)
            for factor, parameter in zip(factors, trained, strict=False):
                if parameter.grad is not None:
                    project.add(total, parameter.grad[None], factor)
            model.zero_grad()

    return run


def bergson(loaded: LoadedModel) -> Run:
    """bergson's gradient collector on the same adapter: its default projection (16 x 16 a module), nothing written."""
    from bergson.collector.collector import fwd_bwd_factory
    from bergson.collector.gradient_collectors import GradientCollector
    from bergson.config.config import IndexConfig
    from bergson.data import pad_and_tensor
    from bergson.gradients import GradientProcessor
    from bergson.utils.worker_utils import extract_peft_target_modules
    from datasets import Dataset

    model = _with_lora(loaded)
    folder = tempfile.mkdtemp()
    config = IndexConfig(run_path=f"{folder}/run", projection_dim=16)
    collector = GradientCollector(
        model=model.base_model,
        cfg=config,
        processor=GradientProcessor({}, projection_dim=16),
        target_modules=extract_peft_target_modules(model),
        data=Dataset.from_dict({"input_ids": [[0]] * 4096}),
        skip_index=True,
    )
    forward_backward = fwd_bwd_factory(config)

    def run(rows: Sequence[Encoded]) -> None:
        ids = [row.ids.tolist() for row in rows]
        labels = [[t if s else -100 for t, s in zip(row.ids.tolist(), row.supervised, strict=True)] for row in rows]
        x, y, _, mask = pad_and_tensor(ids, labels=labels, device=loaded.device, sync_max_len=False)
        with collector.with_batch(mask):
            losses = forward_backward(model, x, y, {})
        collector.process_batch(list(range(len(rows))), losses=losses)

    return run
