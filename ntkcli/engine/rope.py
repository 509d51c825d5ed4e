"""Rotary positions that depend on the longest row of a batch: rows are put together so that none notices the others.

`longrope` takes other frequencies for all positions once a batch is longer than the length of pretraining; `dynamic`
scales them with the batch's length, and remembers the longest batch before it. A row must be computed as it would be
alone. So a batch holds rows of one class: of longrope, those on one side of that length; of dynamic, shorter rows
together and longer ones by their very length. Neither may a row's end be cut off, whatever its positions are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

LengthClasses = Callable[[Sequence[int] | NDArray[np.int64]], NDArray[np.int64]]
"""Lengths of rows (n,) → their classes (n,): rows of different classes must not share a batch. 0: not scaled."""


def length_classes(config: Any) -> LengthClasses | None:
    """How the model's configuration divides rows by length; None where a batch may hold any."""
    scaled = list(_scalings(config.get_text_config()))
    if not scaled:
        return None
    limit = min(limit for _, limit in scaled)
    every_length = any(kind == "dynamic" for kind, _ in scaled) or len({limit for _, limit in scaled}) > 1

    def classes(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        found = np.asarray(lengths, dtype=np.int64)
        return np.where(found > limit, found if every_length else 1, 0)

    return classes


def forget_lengths(model: nn.Module) -> None:
    """Let dynamic scalings begin each forward as a new model's do, whatever batch came before."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        by_layer = kinds if isinstance(kinds, dict) else {"": kinds}
        prefixes = [f"{layer}_" if layer else "" for layer, kind in by_layer.items() if "dynamic" in str(kind)]
        if prefixes and hasattr(module, "original_max_seq_len"):
            module.register_forward_pre_hook(_forgetting(prefixes))


def _scalings(config: Any) -> Iterator[tuple[str, int]]:
    """Kind and length up to which nothing is scaled, of each rotary embedding that depends on the batch."""
    values = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    each = [one for one in values.values() if isinstance(one, dict)] or [values]
    for one in each:
        kind = str(one.get("rope_type") or one.get("type") or "")
        longest = int(getattr(config, "max_position_embeddings", 0) or 0)
        if kind in ("longrope", "su"):
            own = one.get("original_max_position_embeddings")
            yield "longrope", int(own or getattr(config, "original_max_position_embeddings", None) or longest)
        elif "dynamic" in kind:
            yield "dynamic", longest


def _forgetting(prefixes: Sequence[str]) -> Callable[[Any, Any], None]:
    def hook(module: Any, _: Any) -> None:
        for prefix in prefixes:
            name = f"{prefix}max_seq_len_cached"
            if getattr(module, name, module.max_seq_len_cached) > module.original_max_seq_len:
                now = getattr(module, f"{prefix}inv_freq")
                original = getattr(module, f"{prefix}original_inv_freq").to(now.device)
                module.register_buffer(f"{prefix}inv_freq", original, persistent=False)
            setattr(module, name, module.original_max_seq_len)

    return hook
