"""What a batch holds on its device while it is computed, counted from a model's configuration; no weight is looked at.

Counted: activations (kept for a backward, or of the layer at hand), each row's gradients and sketches, keys and values
of generated text, logits of last positions, and masks. Logits of many positions come in blocks (`LOGIT_BYTES`).

Legend: D hidden size, F size of the MLP, L layers, V vocabulary, B rows of T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch

from ntkcli.engine.memory import LOGIT_BYTES, MOST_TOKENS, Footprint, free_bytes
from ntkcli.engine.models.devices import DTYPES, pick_device, pick_dtype
from ntkcli.engine.models.loading import model_config
from ntkcli.identity import ModelIdentity

CPU_BATCH_TOKENS: Final = 1024
"""Enough for matrix products to run at full speed on a CPU: 2,048 take twice the memory and are no faster."""
CUDA_SHARE: Final = 0.6
"""Of the free CUDA memory, what a counted batch may take; the rest is for fragmentation and buffers of kernels."""
_LEAST: Final = 512
_BLOCKS: Final = 3
"""Blocks of logits that stand at once: the logits, their probabilities or slope, and what becomes of these."""
_STATE_BYTES: Final = 16
"""Of a trained weight: itself, its gradient and Adam's two moments, float32."""


def training_footprint(config: Any, dtype: torch.dtype, *, checkpointed: bool = False) -> Footprint:
    """Of a forward and a backward through all layers, with padding masked."""
    return Footprint(token=_kept(config, dtype, checkpointed=checkpointed), square=_mask(dtype), fixed=_logits())


def feature_footprint(
    config: Any, dtype: torch.dtype, *, factors: Iterable[tuple[int, int, int]], dim: int
) -> Footprint:
    """Of per-row gradients: `factors` are (rank, in, out) of each adapted layer, `dim` numbers make a sketch.

    Rows' gradients stand of one layer at a time, of up to three that read one input, once more as they are projected.
    """
    largest = max((rank * (columns_in + columns_out) for rank, columns_in, columns_out in factors), default=0)
    return Footprint(token=_kept(config, dtype), row=4 * (2 * 3 * largest + 4 * dim), fixed=_logits())


def forward_footprint(config: Any, dtype: torch.dtype) -> Footprint:
    """Of a forward alone, with the keys and values and the logits that generated text takes, and masks of choices."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * heads * head_dim * dtype.itemsize
    row = 2 * 4 * text.vocab_size  # logits of the last position, and as the choice of a token sees them
    return Footprint(token=2 * _layer(text, dtype) + cache, row=row, square=_mask(dtype), fixed=_logits())


def counted_tokens(footprint: Footprint, device: torch.device, *, reserved: int = 0) -> int:
    """Tokens a batch: fixed on a CPU, on CUDA what of the free memory less `reserved` bytes takes batches."""
    if device.type != "cuda":
        return CPU_BATCH_TOKENS
    room = CUDA_SHARE * (free_bytes(device) - reserved - footprint.fixed)
    return int(min(max(room / footprint.token, _LEAST), MOST_TOKENS))


def planned_tokens(identity: ModelIdentity, *, backward: bool, dtype: str, device: str, weights: int) -> int:
    """Tokens a batch of features or an evaluation, before the model of so many `weights` is loaded.

    On CUDA features measure a batch when they begin, and correct this.
    """
    place = pick_device(device)
    if place.type != "cuda":
        return CPU_BATCH_TOKENS
    number, config = DTYPES[pick_dtype(dtype, place)], model_config(identity)
    found = feature_footprint(config, number, factors=(), dim=0) if backward else forward_footprint(config, number)
    return counted_tokens(found, place, reserved=weights * number.itemsize)


def trained_bytes(weights: int) -> int:
    """Bytes of so many trained weights with their optimiser."""
    return _STATE_BYTES * weights


def _kept(config: Any, dtype: torch.dtype, *, checkpointed: bool = False) -> int:
    """Bytes of a token's activations that a backward needs; checkpointed, each layer's input and one layer's."""
    text = config.get_text_config()
    if checkpointed:
        return int(text.num_hidden_layers * text.hidden_size * dtype.itemsize) + _layer(text, dtype)
    return int(text.num_hidden_layers) * _layer(text, dtype)


def _layer(text: Any, dtype: torch.dtype) -> int:
    """About 10 hidden-sized and 4 MLP-sized tensors a token: norms, q/k/v/o, rotary copies; gate, up, product, silu."""
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return int((10 * text.hidden_size + 4 * inner) * dtype.itemsize)


def _mask(dtype: torch.dtype) -> int:
    """Bytes of a mask for each pair of positions: booleans, and as the attention kernel adds them."""
    return 1 + dtype.itemsize


def _logits() -> int:
    return _BLOCKS * LOGIT_BYTES
