"""How `arms` scores and trains, by name: the default, chosen by the figures in docs/results.md, and the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ntkcli.choices import Equalise, LossPer
from ntkcli.choices import Preset as Name


@dataclass(frozen=True, slots=True)
class Preset:
    """The direction in logit space (`featurize --probe`), the score (`score --method`, `--centre`), and the training.

    `loss_per`, `domain_repeat`, `equalise` and `draws` are the options of `arms`; None: decided by the data, and for
    `draws` one per seed.
    """

    probe: str
    method: str
    centre: bool
    loss_per: LossPer
    domain_repeat: int | None
    equalise: Equalise | None
    draws: int | None


DEFAULT: Final = Preset(
    probe="centred", method="cosine", centre=True, loss_per=LossPer.ROW, domain_repeat=None, equalise=None, draws=5
)
PAPER: Final = Preset(
    probe="sum",
    method="mean",
    centre=False,
    loss_per=LossPer.TOKEN,
    domain_repeat=1,
    equalise=Equalise.ROWS,
    draws=None,
)
PRESETS: Final = {Name.DEFAULT: DEFAULT, Name.PAPER: PAPER}
"""`paper` is arXiv 2511.07380: the sum of logits, which softmax can't see, and the mean of raw dot products;
each row once per epoch, under a mean over tokens."""
