"""Tiny tokenizers made in memory, one for each family of chat templates in their minimal form.

One token per byte and a few merges, so that a mask can be written down by hand as text.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}"
    "{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}"
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}<|eot_id|>"
    "{% for m in messages %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must\nalternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
PHI = (  # the end-of-text token stands at the very end of a finished conversation only
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
QWEN3 = (  # an empty thought before the last answer, none before earlier ones
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(
    *,
    special: tuple[str, ...],
    bos: str | None = None,
    eos: str | None = None,
    template: str | None = None,
    adds_bos: bool = False,
    nfc: bool = False,
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: a token is a byte, or a special token, or one of three merges."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ċ", "Ċ"), ("y", "e"), ("ye", "s")]  # "\n\n" straddles turns
    vocab = {token: i for i, token in enumerate([*alphabet, *("".join(merge) for merge in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, chat_template=template)


TOKENIZERS: dict[str, dict[str, Any]] = {
    "chatml": {
        "special": ("<|im_start|>", "<|im_end|>"),
        "bos": "<|im_start|>",
        "eos": "<|im_end|>",
        "template": CHATML,
    },
    "llama3": {
        "special": ("<|bos|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eos|>"),
        "bos": "<|bos|>",
        "eos": "<|eos|>",
        "template": LLAMA3,
        "adds_bos": True,
    },
    "gemma": {
        "special": ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "bos": "<bos>",
        "eos": "<eos>",
        "template": GEMMA,
        "adds_bos": True,
    },
    "mistral": {
        "special": ("<s>", "</s>"),
        "bos": "<s>",
        "eos": "</s>",
        "template": MISTRAL,
        "adds_bos": True,
    },
    "phi": {
        "special": ("<|eos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "eos": "<|eos|>",
        "template": PHI,
    },
    "qwen3": {
        "special": ("<|eos|>", "<|im_start|>", "<|im_end|>"),
        "eos": "<|eos|>",
        "template": QWEN3,
        "nfc": True,
    },
    "r1": {"special": ("<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"), "bos": "<|bos|>", "eos": "<|end|>"},
    "harmony": {
        "special": ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"),
        "eos": "<|return|>",
    },
    "plain": {"special": ("<s>", "</s>"), "bos": "<s>", "eos": "</s>", "adds_bos": True},
    "bare": {"special": ()},
}


@pytest.fixture(scope="session")
def tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """A fresh tokenizer of a family, with `changes` to how it is made."""

    def make(family: str, **changes: Any) -> PreTrainedTokenizerFast:
        return make_tokenizer(**{**TOKENIZERS[family], **changes})

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines (objects as JSON, bytes and strings as they are) to a .jsonl or .jsonl.gz file."""

    def write_lines(*lines: Any, name: str = "data.jsonl") -> Path:
        data = b"".join(_bytes(line) + b"\n" for line in lines)
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write_lines


def _bytes(line: Any) -> bytes:
    if isinstance(line, bytes):
        return line
    return (line if isinstance(line, str) else json.dumps(line)).encode()
