"""Rows that are too long for a model, told before its weights are loaded.

Positions that are computed (rotary ones, most ALiBi) have no limit; learned ones and tables do.
"""

from __future__ import annotations

from typing import Any

import torch

from ntkcli.engine.models.loading import model_config
from ntkcli.errors import UsageError
from ntkcli.identity import ModelIdentity


def refuse_too_long(identity: ModelIdentity, longest: int, what: str) -> None:
    """UsageError if `what`, of `longest` tokens, needs more positions than the model has embeddings for."""
    limit = position_limit(model_config(identity), longest)
    if limit is not None:
        raise UsageError(
            f"{what} has {longest} tokens, and {identity.reference} has embeddings for {limit} positions.",
            f"Give --max-length {limit}, or less.",
        )


def refuse_no_room(identity: ModelIdentity, longest: int, max_new_tokens: int, what: str) -> None:
    """UsageError if a prompt and the answer to be written after it need more positions than the model has."""
    limit = position_limit(model_config(identity), longest + max_new_tokens)
    if limit is not None:
        raise UsageError(
            f"{what} has {longest} tokens; with {max_new_tokens} new ones they exceed the {limit} positions that "
            f"{identity.reference} has embeddings for.",
            f"Give --max-length {max(3, limit - max_new_tokens)}, or fewer --max-new-tokens.",
        )


def position_limit(config: Any, length: int) -> int | None:
    """How many positions the model has embeddings for, if they are fewer than `length`; else None."""
    config = config.get_text_config()
    alibi_table = config.model_type == "mpt"
    stated = getattr(config, "max_seq_len" if alibi_table else "max_position_embeddings", None)
    if not isinstance(stated, int) or stated <= 0 or length <= stated:
        return None
    return stated if alibi_table or _has_table(config, stated) else None


def _has_table(config: Any, positions: int) -> bool:
    """Whether the model keeps a table of its positions; it is built without weights."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, RuntimeError, NotImplementedError):  # its own code, which only the load may run
        return False
    learned = any(
        _of_positions(name) and len(x) in (positions, positions + 2)  # OPT and BART leave two rows in front
        for name, x in model.named_parameters()
    )
    return learned or any(
        _of_positions(name) and len(x) == positions for name, x in model.named_buffers() if x.dim() == 2
    )


def _of_positions(name: str) -> bool:
    last = ".".join(name.split(".")[-2:])
    return "wpe" in last or ("pos" in last and "post" not in last)
