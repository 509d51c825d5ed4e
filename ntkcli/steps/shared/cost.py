"""What an expensive step would take, found out without loading weights: rows, tokens, disk, memory, time."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ntkcli.data import BadRow, Row
from ntkcli.data.raw_text import CHAT
from ntkcli.identity import ModelIdentity
from ntkcli.steps.shared.token_counts import Counts, count

SAMPLE_ROWS = 2000
"""Rows tokenised for the estimate: the mean of their lengths is then known to a few percent."""
OPERATIONS = {"embed": (2.0, 0.0), "ntk": (2.0, 2.3), "loss": (2.0, 3.3)}
"""Operations a parameter and token: of the forward, and of each backward (to activations 2; adapters and head more)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of a step. Tokens are extrapolated from `sampled` rows, exact if those are all; seconds from a matrix
    product on this device.

    `rows` are to be computed; `there` more have been, and cost nothing. `disk_bytes` is what it adds to the store;
    `weight_bytes` and `batch_tokens`, computed at a time, bound the memory.
    `counted`: the step's first batch will measure `batch_tokens`, which is counted here (features on a GPU).
    """

    step: str
    rows: int
    sampled: int
    unusable: int
    tokens: int
    mean_tokens: float
    p95_tokens: float
    max_tokens: int
    truncated: int
    disk_bytes: int
    weight_bytes: int
    batch_tokens: int
    seconds: float
    counted: bool = False
    there: int = 0


def estimate(
    rows: Iterable[Row | BadRow],
    *,
    n: int,
    step: str,
    model: ModelIdentity,
    max_length: int,
    disk_bytes: int,
    device: str,
    dtype: str,
    batch_tokens: int | None,
    passes: int = 1,
    forwards: int = 1,
    thinking: bool | None = None,
    text_as: str = CHAT,
    counts: Counts | None = None,
    there: int = 0,
) -> Estimate:
    """The cost of `n` rows with `forwards` and `passes` backwards each; `step` is a key of `OPERATIONS`.

    From the first of `rows`, or from `counts` of all of them. `batch_tokens`: as it is known, else as the step will
    count them.
    """
    from ntkcli.engine.models.devices import pick_device
    from ntkcli.engine.models.footprint import planned_tokens
    from ntkcli.engine.models.limits import refuse_too_long
    from ntkcli.engine.models.speed import operations_per_second

    if counts is None:
        counts = count(islice(rows, SAMPLE_ROWS), model, thinking=thinking, text_as=text_as)
    sampled, good = len(counts.length), counts.good()
    whole = counts.length[good].astype(np.int64)
    lengths = np.minimum(whole, max_length) if len(whole) else np.zeros(1)
    tokens = round(float(lengths.mean()) * n * len(whole) / max(1, sampled))
    refuse_too_long(model, int(lengths.max()), "The longest row")
    parameters, weight_bytes = weight_size(model)
    forward, backward = OPERATIONS[step]
    return Estimate(
        step=step,
        rows=n,
        sampled=sampled,
        unusable=int((~good).sum()),
        tokens=tokens,
        mean_tokens=float(lengths.mean()),
        p95_tokens=float(np.percentile(lengths, 95)),
        max_tokens=int(lengths.max()),
        truncated=int((whole > max_length).sum()),
        disk_bytes=disk_bytes,
        weight_bytes=weight_bytes,
        batch_tokens=batch_tokens
        or planned_tokens(model, backward=step != "embed", dtype=dtype, device=device, weights=parameters),
        seconds=tokens * parameters * (forwards * forward + passes * backward) / operations_per_second(device),
        counted=not batch_tokens and pick_device(device).type == "cuda",
        there=there,
    )


def hidden_size(model: ModelIdentity) -> int:
    """Numbers in a hidden state, by the model's configuration."""
    if model.gguf is None:
        config = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
        for each in (config, config.get("text_config")):
            if isinstance(each, dict) and isinstance(width := each.get("hidden_size"), int):
                return width  # without transformers, which takes seconds to import
    from ntkcli.engine.models.loading import model_config

    return int(model_config(model).get_text_config().hidden_size)


def weight_size(model: ModelIdentity) -> tuple[int, int]:
    """Parameters and bytes of a model's weights, from the heads of its files alone."""
    if model.gguf:  # quantised: about 4.5 bits a parameter, kept as float32 when loaded
        parameters = (model.folder / model.gguf).stat().st_size * 8 * 2 // 9
        return parameters, parameters * 4
    parameters = weight_bytes = 0
    for path in model.folder.glob("*.safetensors"):
        for name, tensor in _safetensors_header(path).items():
            if "shape" in tensor:
                scales = ".weight." in name or name.endswith(".SCB")  # of bitsandbytes
                packed = tensor["dtype"] == "U8" and not scales  # two parameters of 4 bits in a byte
                if not scales:
                    parameters += int(np.prod(tensor["shape"], dtype=np.int64)) * (2 if packed else 1)
                weight_bytes += tensor["data_offsets"][1] - tensor["data_offsets"][0]
    return parameters, weight_bytes


def _safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, dict[str, Any]] = json.loads(file.read(length))
    return header
