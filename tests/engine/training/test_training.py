"""The loss against the model's own, and what a checkpoint that was not finished must not do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ntkcli.engine.memory import DoesNotFitError
from ntkcli.engine.models.loading import LoadedModel, decoder_of, head_form, head_of
from ntkcli.engine.training import loss
from ntkcli.engine.training.checkpoints import RunState, mark_whole, newest_checkpoint
from ntkcli.engine.training.loss import SHORTEST_SHARE, StepLoss, collate, completion_loss, like_lengths, not_finite
from tests.engine.kit import load, make_rows


@pytest.mark.parametrize("name", ["llama", "gemma2_softcap", "gpt2_conv1d"])
def test_loss_and_gradient_are_the_models_own(name: str) -> None:
    loaded = load(name)
    batch = collate(make_rows([9, 4, 12]), pad_id=0)
    weights = [p for p in decoder_of(loaded.model).parameters() if p.dim() == 2][-2:]
    for weight in weights:
        weight.requires_grad_(True)
    expected = loaded.model(**batch).loss
    expected_grads = torch.autograd.grad(expected, weights)
    hidden = decoder_of(loaded.model)(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    total = completion_loss(loaded.model, hidden.last_hidden_state, batch["labels"], torch.ones(3, 1))
    found = total / (batch["labels"][:, 1:] != -100).sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(found, weights), expected_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trained_head", [False, True])
def test_blocks_of_logits_give_the_same_loss_and_gradients(
    dtype: torch.dtype, trained_head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to rounding, also where the gradient is tiny; and no block holds more than it may."""
    loaded = load("gemma2_softcap" if dtype == torch.float32 else "llama", dtype)
    labels = collate(make_rows([30, 4, 25]), pad_id=0)["labels"]
    head = head_of(loaded.model)
    head.weight.requires_grad_(trained_head)
    torch.manual_seed(0)
    hidden = torch.randn(*labels.shape, head.in_features, dtype=dtype, requires_grad=True)
    wanted = [hidden, *([head.weight] if trained_head else [])]
    weights = torch.linspace(0.5, 2, len(labels))[:, None]
    count = int((labels[:, 1:] != -100).sum())
    whole = completion_loss(loaded.model, hidden, labels, weights)
    expected = torch.autograd.grad(whole / 5000, wanted)
    largest: list[int] = []
    head.register_forward_hook(lambda _, __, output: largest.append(len(output)))
    monkeypatch.setattr(loss, "LOGIT_BYTES", 4 * 97 * 3)  # three tokens at a time
    found = completion_loss(loaded.model, hidden, labels, weights)
    gradients = torch.autograd.grad(found / 5000, wanted)
    assert count > 9
    assert max(largest) == 3
    assert len(largest) == -(-count // 3), "nothing is computed twice"
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    close = {"rtol": 1e-4, "atol": 1e-8} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-6}
    for a, b in zip(gradients, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, **close)
    with torch.no_grad():
        torch.testing.assert_close(completion_loss(loaded.model, hidden, labels, weights), whole, rtol=1e-5, atol=1e-5)


def test_collate_supervises_answers_only() -> None:
    rows = make_rows([6, 3])
    batch = collate(rows, pad_id=0)
    assert batch["labels"].shape == (2, 6)
    for i, row in enumerate(rows):
        labels = batch["labels"][i].numpy()
        assert (labels[: len(row)][row.supervised] == row.ids[row.supervised]).all()
        assert (labels[: len(row)][~row.supervised] == -100).all()
        assert (labels[len(row) :] == -100).all()
        assert batch["attention_mask"][i].sum() == len(row)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.none() | st.integers(1, 2000))
def test_groups_of_like_length_hold_every_row_once(lengths: list[int], budget: int | None) -> None:
    groups = like_lengths(torch.tensor(lengths), budget)
    assert sorted(i for rows, _ in groups for i in rows.tolist()) == list(range(len(lengths)))
    for rows, longest in groups:
        inside = [lengths[i] for i in rows]
        assert max(inside) == longest
        assert min(inside) >= SHORTEST_SHARE * longest
        assert budget is None or len(inside) == 1 or len(inside) * longest <= budget


def test_half_written_checkpoints_are_removed(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        if step != 20:
            mark_whole(folder, RunState(2048, best_step=7 if step == 15 else None))
    # 15 is whole but its best adapter is gone
    assert newest_checkpoint(tmp_path, at_most=99) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-20").exists()
    assert newest_checkpoint(tmp_path, at_most=9) == tmp_path / "checkpoint-5"  # a part of steps before 10 is damaged
    assert newest_checkpoint(tmp_path / "none", at_most=99) is None


def test_rows_keep_their_dtype() -> None:
    assert collate(make_rows([3]), pad_id=0)["input_ids"].numpy().dtype == np.int64


def whole_loss(loaded: LoadedModel, batch: dict[str, Tensor]) -> Tensor:
    loss: Tensor = loaded.model(**batch).loss  # the model's own: the mean over all supervised tokens of the batch
    return loss


@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_a_steps_loss_is_that_of_all_its_tokens_however_it_is_cut(budget: int) -> None:
    """Completions of unequal length: a mean of the pieces' means would be another number."""
    loaded = load("llama")
    rows = make_rows([9, 4, 12, 30, 5])
    for row in rows:
        row.supervised[:] = np.arange(len(row)) >= (1 if len(row) > 10 else len(row) - 1)
    batch = collate(rows, pad_id=0)
    weight = next(p for p in decoder_of(loaded.model).parameters() if p.dim() == 2)
    weight.requires_grad_(True)
    expected = whole_loss(loaded, batch)
    (expected_grad,) = torch.autograd.grad(expected, [weight])
    found = StepLoss(loaded.model, budget_tokens=budget).backward(batch, lambda loss: loss.backward())  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad, expected_grad, rtol=1e-4, atol=1e-6)


def test_out_of_memory_halves_what_is_computed_at_a_time() -> None:
    loaded = load("llama")
    batch = collate(make_rows([12, 12, 11, 12]), pad_id=0)
    weight = next(p for p in decoder_of(loaded.model).parameters() if p.dim() == 2)
    weight.requires_grad_(True)
    expected = whole_loss(loaded, batch)
    (expected_grad,) = torch.autograd.grad(expected, [weight])
    head_form(loaded.model)  # as `load_model` does: it runs the model once
    seen: list[int] = []

    def refuse_much(module: Any, args: Any, kwargs: Any) -> None:
        tokens = kwargs["input_ids"].numel()
        seen.append(tokens)
        if tokens > 12 and len(seen) != 2:  # the second piece fits, the third doesn't: none may count twice
            raise torch.OutOfMemoryError("CUDA out of memory")

    loss = StepLoss(loaded.model, budget_tokens=1000)
    handle = decoder_of(loaded.model).register_forward_pre_hook(refuse_much, with_kwargs=True)
    found = loss.backward(batch, lambda part: part.backward())
    assert seen == [48, 24, 24, 12, 12, 12, 11]
    assert loss.budget.tokens == 12
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad, expected_grad, rtol=1e-4, atol=1e-6)
    handle.remove()
    handle = decoder_of(loaded.model).register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
    )
    with pytest.raises(DoesNotFitError, match=r"A row of 12 tokens does not fit in memory") as refused:
        loss.backward(batch, lambda part: part.backward())
    assert refused.value.tokens == 12
    handle.remove()


def test_an_error_names_the_rows_that_make_it() -> None:
    names = [f"d.jsonl line {i} (id x{i})" for i in range(8)]
    some = str(not_finite("The loss of step 3", math.nan, names, [1.0, math.nan] + [1.0] * 6))
    assert some.startswith("The loss of step 3 is nan: only 1 of its 8 rows make it so: d.jsonl line 1 (id x1). Take")
    every = str(not_finite("The loss of step 3", math.inf, names, [math.inf] * 8))
    assert "line 0 (id x0)" in every
    assert "line 4 (id x4) and 3 more. Lower --lr" in every


@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_a_loss_per_row_is_the_mean_of_the_rows_own_losses(budget: int) -> None:
    loaded = load("llama")
    rows = make_rows([9, 4, 12, 30, 5])
    for row in rows:
        row.supervised[:] = np.arange(len(row)) >= (1 if len(row) > 10 else len(row) - 1)
    weight = next(p for p in decoder_of(loaded.model).parameters() if p.dim() == 2)
    weight.requires_grad_(True)
    expected = torch.stack([whole_loss(loaded, collate([row], pad_id=0)) for row in rows]).mean()
    (expected_grad,) = torch.autograd.grad(expected, [weight])
    expected = expected.detach()
    batch = collate(rows, pad_id=0)
    loss = StepLoss(loaded.model, budget_tokens=budget, per_row=True)
    found = loss.backward(batch, lambda part: part.backward())  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad, expected_grad, rtol=1e-4, atol=1e-6)
    assert loss.mean(rows, pad_id=0, device=loaded.device) == pytest.approx(float(expected), rel=1e-5)
    assert (
        abs(float(whole_loss(loaded, batch).detach()) - float(expected)) > 1e-4
    )  # the mean over tokens is another number
