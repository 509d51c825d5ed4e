"""Tokens as the store keeps them: the same numbers back, the same rows as the encoder makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntkcli.data import BadRow, DataFile, Encoded, Encoder, RowError
from ntkcli.data import encode_stream as streams
from ntkcli.identity import resolve_model
from ntkcli.steps.shared import token_counts
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.kept_tokens import as_texts, of_texts
from ntkcli.steps.shared.stores import open_store
from tests.conftest import Writer, make_tokenizer, prompt_rows

NUMBERS = st.one_of(st.integers(0, 300), st.sampled_from([0xD7FF, 0xD800, 0xDFFF, 0xE000, 0x10F7FF]))


@given(st.lists(st.tuples(NUMBERS, st.booleans()), min_size=1, max_size=40))
def test_the_numbers_come_back(tokens: list[tuple[int, bool]]) -> None:
    row = Encoded(np.array([n for n, _ in tokens], np.int32), np.array([m for _, m in tokens]), truncated=False)
    texts = as_texts(row)
    for text in texts:
        text.encode()  # what the store writes
    back = of_texts(*texts)
    assert back.ids.dtype == np.int32
    assert back.ids.tolist() == row.ids.tolist()
    assert back.supervised.tolist() == row.supervised.tolist()


def test_numbers_beyond_the_code_points_are_not_kept() -> None:
    row = Encoded(np.array([1, 0x10F800], np.int32), np.array([False, True]), truncated=False)
    assert as_texts(row) == ("", "") == as_texts(None)


def mixed_rows() -> list[Any]:
    turns = [{"role": role, "content": f"{role} {i}"} for i in range(3) for role in ("user", "assistant")]
    return [
        *prompt_rows(5, seed=1),
        {"prompt": "a<|im_end|>b", "completion": "c"},
        *prompt_rows(700, seed=2),
        "broken",
        {"messages": turns, "prompt": "x " * 80, "completion": "y"},
        *prompt_rows(3, seed=3),
    ]


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, RowError):
        return isinstance(found, RowError) and (found.reason, found.status) == (expected.reason, expected.status)
    return (found.ids.tolist(), found.supervised.tolist(), found.truncated, found.dropped_turns) == (
        expected.ids.tolist(),
        expected.supervised.tolist(),
        expected.truncated,
        expected.dropped_turns,
    )


@pytest.mark.parametrize("max_length", [40, 1000])
def test_a_stream_gives_what_rows_one_by_one_give(write_jsonl: Writer, max_length: int) -> None:
    encoder = Encoder(make_tokenizer(), max_length=max_length)
    rows = list(DataFile(write_jsonl("d.jsonl", mixed_rows())).rows())
    found = list(streams.encode_whole(rows, encoder))
    assert [row for row, _ in found] == rows
    for row, whole in found:
        if isinstance(row, BadRow):
            assert whole is None
        else:
            expected = streams.attempt(encoder.encode, row)
            assert same(streams.attempt(encoder.fit, row, whole) if isinstance(whole, Encoded) else whole, expected)


@pytest.mark.parametrize("text_as", ["chat", "raw"])
def test_kept_rows_are_those_of_the_encoder(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch, text_as: str
) -> None:
    """In parts, out of order; those that are cut, those that are refused, and pieces of raw texts."""
    monkeypatch.setattr(token_counts, "PART_ROWS", 8)
    texts = [{"text": row["prompt"] * 3} for row in prompt_rows(20, seed=1)]
    rows = texts if text_as == "raw" else [*prompt_rows(12, seed=1), {"prompt": "a<|im_end|>b", "completion": "c"}]
    stored = open_store(tmp_path / "s", create=True)
    dataset, file = register_data(stored, name="d", data=write_jsonl("d.jsonl", rows))
    model = resolve_model(str(model_dir))
    token_counts.count_tokens(stored, dataset, file, model, text_as=text_as)
    encoder = Encoder(make_tokenizer(), max_length=50, text_as=text_as)
    kept = token_counts.kept_tokens(stored, dataset, model, encoder)
    made = [streams.attempt(encoder.encode, row) for row in file.rows()]
    pieces = [streams.attempt(encoder.encode_pieces, row) for row in file.rows()]
    with monkeypatch.context() as patch:
        tokenised: list[int] = []
        finish = Encoder.finish
        patch.setattr(Encoder, "finish", lambda *given: tokenised.append(1) or finish(*given))
        for row, whole in reversed(list(kept.whole_rows(file.rows()))):
            expected = made[row.index]
            assert same(streams.attempt(encoder.fit, row, whole) if isinstance(whole, Encoded) else whole, expected)
            if isinstance(whole, Encoded):
                parts = encoder.fit_pieces(row, whole)
                assert all(same(*pair) for pair in zip(parts, pieces[row.index], strict=True))
        assert not tokenised
