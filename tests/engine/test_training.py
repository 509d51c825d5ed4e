"""The loss against the model's own, and what a checkpoint that was not finished must not do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkcli.engine.models import decoder_of
from ntkcli.engine.training import SHORTEST_SHARE, collate, completion_loss, like_lengths, newest_checkpoint
from tests.engine.test_gradients import load, make_rows


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
    found = completion_loss(loaded.model, hidden.last_hidden_state, batch["labels"])
    found = found / (batch["labels"][:, 1:] != -100).sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(found, weights), expected_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


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


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_groups_of_like_length_hold_every_row_once(lengths: list[int]) -> None:
    groups = like_lengths(torch.tensor(lengths))
    assert sorted(i for rows, _ in groups for i in rows.tolist()) == list(range(len(lengths)))
    for rows, longest in groups:
        inside = [lengths[i] for i in rows]
        assert max(inside) == longest
        assert min(inside) >= SHORTEST_SHARE * longest


def test_half_written_checkpoints_are_removed(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        if step != 15:
            (folder / "ntksel-checkpoint-whole").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-15").exists()
    assert newest_checkpoint(tmp_path / "none") is None


def test_rows_keep_their_dtype() -> None:
    assert collate(make_rows([3]), pad_id=0)["input_ids"].numpy().dtype == np.int64
