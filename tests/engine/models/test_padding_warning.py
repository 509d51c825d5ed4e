"""Models whose forward warns about padding without a mask: GPT-2's does, and no value of ours hangs on it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as messages

from ntkcli.engine.features.embeddings import EmbeddingEngine
from ntkcli.engine.models.loading import load_model
from ntkcli.identity import resolve_model
from tests.conftest import make_tokenizer
from tests.engine.kit import make_rows


class Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    tokenizer = make_tokenizer()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64, pad_token_id=0,
                        bos_token_id=1, eos_token_id=0)  # fmt: skip
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_padded_rows_give_no_warning(gpt2: Path) -> None:
    loaded = load_model(resolve_model(str(gpt2)), dtype="float32", device="cpu")
    seen, transformers = Messages(), logging.getLogger("transformers")
    level = transformers.level
    transformers.addHandler(seen)
    transformers.setLevel(logging.WARNING)  # the command line raises it
    try:
        messages.warning_once.cache_clear()  # an earlier test may have been warned
        _warned(GPT2LMHeadModel.from_pretrained(gpt2).transformer)  # as it is without us
        assert [text for text in seen.texts if "attention_mask" in text]
        seen.texts.clear()
        messages.warning_once.cache_clear()
        rows = make_rows([3, 9])
        together, _ = EmbeddingEngine(loaded, pooling="mean").features(rows, positions="all")
        assert not [text for text in seen.texts if "attention_mask" in text]
    finally:
        transformers.removeHandler(seen)
        transformers.setLevel(level)
    alone, _ = EmbeddingEngine(loaded, pooling="mean").features(rows[:1], positions="all")
    torch.testing.assert_close(together[:1], alone)


def _warned(decoder: Any) -> None:
    with torch.inference_mode():
        decoder(input_ids=torch.tensor([[5, 6, 0]]))
