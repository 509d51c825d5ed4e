"""A model that trains without chance: no dropout of the base model's or the adapter's, no layers skipped, no noise.

Dropout draws numbers by batch, so that how a step is cut into batches (`--batch-tokens`, a matter of speed) would
change the training. Modules stay in evaluation mode; those that gradient checkpointing runs again need training mode
for it, and get rates of zero.
"""

from __future__ import annotations

from torch import nn

_CHANCE = ("drop", "jitter", "noise")
"""In the names of the numbers by which models draw: dropout, attn_pdrop, layerdrop, router_jitter_noise."""


def train_without_chance(model: nn.Module) -> None:
    """Set the modules' modes for a training step. As `model.train()`, but that nothing is drawn."""
    model.eval()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True  # of this module alone: `train` would reach those below
            _draw_nothing(module)


def _draw_nothing(module: nn.Module) -> None:
    for name, value in vars(module).items():
        if any(word in name for word in _CHANCE) and isinstance(value, float):
            setattr(module, name, 0.0)
