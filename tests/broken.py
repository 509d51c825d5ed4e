"""Models some of whose rows are not finite, and a machine with room for few tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import make_tokenizer, save_model

POISON = "z"
"""A letter that no row of `tests.conftest` has."""


def poisoned_model(folder: Path, text: str = POISON, *, value: float = float("nan")) -> Path:
    """The tiny Llama with an untied head and an embedding of this text's token that is not finite."""
    from transformers import AutoModelForCausalLM

    save_model(folder, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    (token,) = make_tokenizer().encode(text, add_special_tokens=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = value
    model.save_pretrained(folder)
    return folder


def plain_model(folder: Path) -> Path:
    """The same without the poison."""
    return save_model(folder, tie_word_embeddings=False)


ERRORS: dict[str, Callable[[], RuntimeError]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
}


def limit_memory(monkeypatch: pytest.MonkeyPatch, tokens: int, *, error: str = "cuda") -> list[int]:
    """Llama's decoder runs out of memory above so many padded tokens; returns the list of what it was given."""
    from transformers import LlamaModel

    real, seen = LlamaModel.forward, []

    def forward(self: Any, input_ids: Tensor, **others: Any) -> Any:
        seen.append(input_ids.numel())
        if input_ids.numel() > tokens:
            raise ERRORS[error]()
        return real(self, input_ids=input_ids, **others)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    return seen
