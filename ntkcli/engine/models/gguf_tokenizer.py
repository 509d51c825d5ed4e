"""A tokenizer in GGUF's terms, for llama.cpp: byte-level BPE by the name of its way to split words, or SentencePiece.

llama.cpp splits by code of its own that is chosen by name, and merges SentencePiece's tokens by score. What would give
other tokens there than here is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ntkcli.errors import UsageError

CONVERT = "Leave --gguf out and convert the folder of --out with llama.cpp's convert_hf_to_gguf.py."
"""What helps where --gguf can't."""
SENTENCEPIECE = "sentencepiece"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {rf"{_WORDS}\p{{N}}{{1,3}}{_REST}": "llama-bpe", rf"{_WORDS}\p{{N}}{_REST}": "qwen2"}
"""Regular expression of a tokenizer's pre-tokenizer → llama.cpp's name of it (src/llama-vocab.cpp)."""
_IGNORES_MERGES = ("llama-bpe",)
"""Of these, llama.cpp takes a word that is in the vocabulary whole."""
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""
_SPACES = [
    {"type": "Prepend", "prepend": _SPACE},
    {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
]
"""The normalisers of Llama 2's tokenizer: a space before the text, and all of them visible."""


def tokenizer_kind(tokenizer: dict[str, Any], *, label: str) -> str:
    """llama.cpp's name of how a byte-level BPE tokenizer splits text (`tokenizer.ggml.pre`), or `SENTENCEPIECE`.

    Raises:
        UsageError: it is another kind of tokenizer, or works in a way that llama.cpp has no name for.
    """
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        raise UsageError(f"--gguf: {label} has a {model.get('type')} tokenizer, expected BPE.", CONVERT)
    if model.get("byte_fallback"):
        normaliser = tokenizer.get("normalizer") or {}
        spaces = normaliser.get("normalizers") == _SPACES and not tokenizer.get("pre_tokenizer")
        if not spaces or scores_of(model) is None:
            raise UsageError(
                f"--gguf: {label} has a SentencePiece tokenizer that is not like Llama 2's in its spaces or merges.",
                CONVERT,
            )
        return SENTENCEPIECE
    found = _split_name(tokenizer.get("pre_tokenizer") or {})
    if found is None or tokenizer.get("normalizer"):
        raise UsageError(f"--gguf: {label} has a tokenizer that splits text in a way that has no name here.", CONVERT)
    if bool(model.get("ignore_merges")) != (found in _IGNORES_MERGES):
        raise UsageError(f"--gguf: {label} has a tokenizer like {found} that treats merges in another way.", CONVERT)
    return found


def _split_name(pre: dict[str, Any]) -> str | None:
    steps = pre.get("pretokenizers", []) if pre.get("type") == "Sequence" else [pre]
    kinds = [step.get("type") for step in steps]
    if kinds[-1:] != ["ByteLevel"] or steps[-1].get("add_prefix_space"):
        return None
    own_split = steps[-1].get("use_regex", True)
    if kinds == ["ByteLevel"] and own_split:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and own_split and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not own_split and steps[0].get("behavior") == "Isolated":
        return _SPLITS.get(str((steps[0].get("pattern") or {}).get("Regex")))
    return None


def scores_of(model: dict[str, Any]) -> dict[str, float] | None:
    """The score of each token that merges make, so that merging by score is merging by rank; None if there is none.

    SentencePiece merges any two neighbours that are a token together, the highest score first. So all ways to make a
    token must be among the merges, and next to each other in rank.
    """
    vocabulary = model["vocab"]
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model.get("merges") or ()]
    known, scores, last = set(pairs), dict[str, float](), ""
    for rank, (left, right) in enumerate(pairs, start=1):
        token = left + right
        if token in scores and token != last:
            return None
        scores.setdefault(token, -float(rank))
        last = token
    for token in vocabulary:
        if token.startswith("<") and token.endswith(">"):  # a byte, or a special token
            continue
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        if any(left in vocabulary and right in vocabulary and (left, right) not in known for left, right in cuts):
            return None
    return scores


def add_tokenizer(writer: Any, folder: Path, *, rows: int) -> None:
    """Write tokens by number with their kinds, merges or scores, special tokens and the chat template."""
    import gguf

    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    model, kind = tokenizer["model"], tokenizer_kind(tokenizer, label=str(folder))
    tokens = {number: token for token, number in model["vocab"].items()}
    kinds = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
    for added in tokenizer.get("added_tokens") or ():
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = gguf.TokenType.CONTROL if added.get("special") else gguf.TokenType.USER_DEFINED
    listed = [tokens.get(i, f"[PAD{i}]") for i in range(rows)]
    if kind == SENTENCEPIECE:
        _add_scores(writer, listed, model)
        for i, token in tokens.items():
            if len(token) == 6 and token.startswith("<0x"):
                kinds[i] = gguf.TokenType.BYTE
            elif token == model.get("unk_token"):
                kinds[i] = gguf.TokenType.UNKNOWN
    writer.add_tokenizer_model("llama" if kind == SENTENCEPIECE else "gpt2")
    writer.add_tokenizer_pre("default" if kind == SENTENCEPIECE else kind)
    writer.add_token_list(listed)
    writer.add_token_types([kinds.get(i, gguf.TokenType.UNUSED) for i in range(rows)])
    special = gguf.SpecialVocab(folder, load_merges=kind != SENTENCEPIECE, n_vocab=rows)
    special.add_to_gguf(writer, quiet=True)


def _add_scores(writer: Any, tokens: Sequence[str], model: dict[str, Any]) -> None:
    scores = scores_of(model) or {}
    writer.add_token_scores([scores.get(token, 0.0) for token in tokens])
    writer.add_add_space_prefix(True)
