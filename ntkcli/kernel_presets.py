"""How the kernel scores rows, by name: the default, chosen by the figures in docs/results.md, and the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Preset:
    """The direction in logit space (`featurize --probe`), and the score (`score --method`, `--centre`)."""

    probe: str
    method: str
    centre: bool


DEFAULT: Final = Preset(probe="centred", method="cosine", centre=True)
PAPER: Final = Preset(probe="sum", method="mean", centre=False)
PRESETS: Final = {"default": DEFAULT, "paper": PAPER}
"""`paper` is arXiv 2511.07380: the sum of logits, which softmax can't see, and the mean of raw dot products."""
