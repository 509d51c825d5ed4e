"""Packed rows are computed as they are by themselves: losses and gradients of a plain loop, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntkcli.data.encoding import Encoded
from ntkcli.engine.models.loading import decoder_of
from ntkcli.engine.training.loss import StepLoss, collate, collate_packs
from ntkcli.engine.training.packs import joined, positions_of, require_packing, segments_of
from ntkcli.errors import UsageError
from tests.engine.kit import load

WINDOWS = ["mistral_window", "gemma2_softcap", "gemma3_text"]
CAN = ["llama", "gpt2_conv1d", "qwen2_tied", "gpt_neox_parallel", "phi3_fused", "falcon_alibi", *WINDOWS]
CANNOT = ["bloom", "mpt_alibi", "recurrent_gemma_softcap"]


def documents(lengths: list[int]) -> list[Encoded]:
    draw = np.random.default_rng(3)
    return [Encoded(draw.integers(3, 97, n).astype(np.int32), np.arange(n) > 0, truncated=False) for n in lengths]


PACKS = [[9, 4, 12], [30, 28, 25], [2], [7, 7, 7, 7]]  # one is longer than GPT-2's 64 positions


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("budget", [30, 10_000])
@pytest.mark.parametrize("name", ["llama", "gpt2_conv1d", "mistral_window"])
def test_loss_and_gradient_of_packs_are_those_of_the_documents(name: str, budget: int, per_row: bool) -> None:
    """Against a plain loop through the whole model, one document at a time."""
    loaded = load(name)
    require_packing(loaded)
    packs = [documents(lengths) for lengths in PACKS]
    weights = [p for p in decoder_of(loaded.model).parameters() if p.dim() == 2]
    for weight in weights:
        weight.requires_grad_(True)
    each, tokens = [], []
    for row in (row for rows in packs for row in rows):
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        each.append(loaded.model(input_ids=ids, labels=ids).loss)
        tokens.append(len(row) - 1)
    counts = torch.ones(len(each)) if per_row else torch.tensor(tokens, dtype=torch.float32)
    expected = (torch.stack(each) * counts).sum() / counts.sum()
    gradients = torch.autograd.grad(expected, weights)
    loss = StepLoss(loaded.model, budget_tokens=budget, per_row=per_row)
    found = loss.backward(collate_packs(packs, pad_id=0), lambda part: part.backward())  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)
    for weight, gradient in zip(weights, gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("name", CAN)
def test_no_document_sees_another(name: str) -> None:
    """Other documents before it, as long as windows and distances need, change nothing of a document."""
    loaded = load(name)
    require_packing(loaded)
    first, other, last = documents([25, 25, 20])
    alone = StepLoss(loaded.model, budget_tokens=10_000).rows(collate([last], 0))[0]
    losses = []
    for before in (first, other):
        pack = joined([before, last])
        pack.supervised[: len(before)] = False
        batch = collate([pack], 0) | {"segments": segments_of([[before, last]])}
        losses.append(StepLoss(loaded.model, budget_tokens=10_000).rows(batch)[0])
    assert losses == pytest.approx([alone, alone], rel=1e-5)


@pytest.mark.parametrize("name", CANNOT)
def test_models_that_mix_the_rows_of_a_sequence_are_refused_by_name(name: str) -> None:
    loaded = load(name)
    with pytest.raises(
        UsageError, match=rf"--pack: models of type {loaded.model.config.model_type} .*Leave --pack out"
    ):
        require_packing(loaded)


def test_models_whose_positions_depend_on_the_sequence_are_refused() -> None:
    loaded = load("llama")
    loaded.model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(UsageError, match="positions that depend on the length of the whole sequence"):
        require_packing(loaded)


def test_the_first_token_of_a_row_is_predicted_by_nothing() -> None:
    a, b = documents([3, 2])
    b.supervised[0] = True
    batch = collate_packs([[a, b], [a]], pad_id=0)
    assert batch["labels"][0].tolist() == [-100, *a.ids[1:], -100, b.ids[1]]
    assert batch["segments"].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]
    assert positions_of(batch["segments"]).tolist() == [[0, 1, 2, 0, 1]] * 2
