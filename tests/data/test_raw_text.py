"""Plain texts as the tokenizer encodes them: the tokens, the pieces of long ones, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntkcli.data import Encoder, Message, Row, RowError
from ntkcli.data.packing import pack_rows
from ntkcli.data.raw_text import refuse_other_schema
from ntkcli.errors import DataError, UsageError
from store import RowStatus
from tests.conftest import make_tokenizer


def tokenizer_with_bos() -> Any:
    """One that puts the begin-of-text token in front of a plain text, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    return tokenizer


TOKENIZERS = {"plain": make_tokenizer, "bos": tokenizer_with_bos}


def text_row(text: str, **more: Any) -> Row:
    return Row(0, 1, "a", "", (Message("user", text),), **more)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_text_is_what_the_tokenizer_makes_of_it_and_an_end_of_text(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    text = "The licence.\n\n  Grant, of use: naïve — 日本\n"
    found = Encoder(tokenizer, max_length=500, text_as="raw").encode(text_row(text))
    assert found.ids.tolist() == [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    assert found.supervised.tolist() == [False] + [True] * (len(found) - 1)
    assert not found.truncated


def test_an_end_of_text_that_the_tokenizer_puts_itself_is_not_doubled() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", tokenizer.eos_token_id)]
    )
    found = Encoder(tokenizer, max_length=50, text_as="raw").encode(text_row("red"))
    assert found.ids.tolist() == tokenizer("red").input_ids


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("max_length", [3, 10, 31, 32, 33])
def test_every_token_of_a_long_text_is_predicted_in_one_piece(kind: str, max_length: int) -> None:
    tokenizer = TOKENIZERS[kind]()
    encoder = Encoder(tokenizer, max_length=max_length, text_as="raw")
    text = "grant of the licence to copy it"  # 31 tokens and an end of text
    whole = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    pieces = encoder.encode_pieces(text_row(text))
    assert max(map(len, pieces)) <= max_length
    predicted = [token for piece in pieces for token in piece.ids[piece.supervised].tolist()]
    assert predicted == whole[1:]
    before = whole[0]
    for piece in pieces:
        assert piece.supervised.tolist() == [False] + [True] * (len(piece) - 1)
        assert piece.ids[0] == (tokenizer.bos_token_id if kind == "bos" else before)
        before = piece.ids[-1]
    cut = encoder.encode(text_row(text))
    assert cut.ids.tolist() == whole[:max_length]
    assert cut.truncated == (len(whole) > max_length)


def test_the_default_is_a_users_turn_and_no_part_of_the_spec() -> None:
    chat, raw = (Encoder(make_tokenizer(), max_length=50, text_as=how) for how in ("chat", "raw"))
    assert not chat.encode(text_row("red")).supervised.any()
    assert chat.spec == Encoder(make_tokenizer(), max_length=50).spec
    assert raw.spec == {**chat.spec, "text_as": "raw"}


def test_what_can_not_be_raw_is_refused() -> None:
    tokenizer = make_tokenizer()
    encoder = Encoder(tokenizer, max_length=50, text_as="raw")
    answer = Row(0, 1, "a", "", (Message("user", "red?"), Message("assistant", "yes")))
    with pytest.raises(RowError, match="not of schema text") as refused:
        encoder.encode(answer)
    assert refused.value.status == RowStatus.UNMASKED
    with pytest.raises(RowError, match="special token"):
        encoder.encode(text_row("red <|im_end|> blue"))
    with pytest.raises(RowError, match="nothing to predict") as refused:
        encoder.encode(text_row(""))
    assert refused.value.status == RowStatus.EMPTY
    tokenizer.embedding_rows = 60
    with pytest.raises(RowError, match="has embeddings for 60"):
        Encoder(tokenizer, max_length=50, text_as="raw").encode_pieces(text_row("red"))
    with pytest.raises(UsageError, match=r"--text-as words is not known\. Give one of: chat, raw"):
        Encoder(tokenizer, max_length=50, text_as="words")
    with pytest.raises(UsageError, match="--thinking is a setting of the chat template"):
        Encoder(tokenizer, max_length=50, text_as="raw", thinking=True)
    tokenizer.eos_token = None
    with pytest.raises(UsageError, match=r"no end-of-text token.*Set eos_token in its tokenizer_config.json"):
        Encoder(tokenizer, max_length=50, text_as="raw")


def test_rows_of_another_schema_are_refused_by_name() -> None:
    refuse_other_schema("text", "raw", "--train a.jsonl")
    refuse_other_schema("messages", "chat", "--train a.jsonl")
    with pytest.raises(DataError, match=r"--train a.jsonl: --text-as raw is for .* text, and these are messages\."):
        refuse_other_schema("messages", "raw", "--train a.jsonl")


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(20, 60), st.integers(0, 3))
def test_packs_hold_every_row_once_and_fit(lengths: list[int], room: int, seed: int) -> None:
    packs = pack_rows(lengths, room, seed=seed, first=100)
    assert sorted(i for pack in packs for i in pack) == list(range(100, 100 + len(lengths)))
    sums = [sum(lengths[i - 100] for i in pack) for pack in packs]
    assert all(total <= room or len(pack) == 1 for total, pack in zip(sums, packs, strict=True))
    assert packs == pack_rows(lengths, room, seed=seed, first=100)
    short = [total for total in sums if total <= room / 2]
    assert len(short) <= 1, "two packs that fit into one"


def test_another_seed_packs_otherwise_and_little_room_is_left() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 500).tolist()
    packs = pack_rows(lengths, 128, seed=0)
    assert packs != pack_rows(lengths, 128, seed=1)
    assert sum(lengths) / (128 * len(packs)) > 0.9
