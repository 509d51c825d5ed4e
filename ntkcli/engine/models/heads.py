"""What a causal model does between its decoder's hidden states and its logits: found by watching it, not by its name.

    logits = phi(W (before·h) + b)        phi(z) = gain·z  or, with a soft cap c,  c·tanh(gain·z/c)

Models scale and cap under many names (Cohere multiplies, Granite divides, Gemma 2 caps, others do under names of their
own), so one small forward is watched: what enters the output layer tells `before`; in place of what leaves it known
numbers are put, and what the model makes of them tells phi. A model that does anything else is refused, and so is one
that is not causal: the engine pads on the right and relies on it.

Legend: B rows, T tokens, D hidden size, V vocabulary, z what the output layer gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ntkcli.errors import UsageError

_TOKENS = 6
_EXPONENTS = range(-6, 16)
"""Powers of two put in place of z, with both signs: from where a cap does nothing to where it does all; float16 has
them."""


@dataclass(frozen=True, slots=True)
class HeadForm:
    """See the module. `cap` is None for a linear head."""

    before: float = 1.0
    gain: float = 1.0
    cap: float | None = None

    @property
    def factor(self) -> float:
        """Of the slope d logits / d (W h) at z = 0; everywhere for a linear head."""
        return self.before * self.gain

    def logits(self, z: Tensor) -> Tensor:
        """phi(z)."""
        if self.cap is None:
            return z if self.gain == 1.0 else z * self.gain
        return self.cap * torch.tanh(z * (self.gain / self.cap))

    def slope(self, logits: Tensor) -> Tensor | float:
        """d logits / d (W h), by the logits: the factor, or before·gain·(1 - (logits/c)²)."""
        return self.factor if self.cap is None else self.factor * (1 - (logits / self.cap) ** 2)


def read_head(model: Any, decoder: nn.Module, head: nn.Linear) -> HeadForm:
    """The model's form, from one forward of 2 x 6 tokens.

    Raises:
        UsageError: the logits are not such a function of the hidden states, or the model isn't causal; names the model.
    """
    seen: dict[str, Tensor] = {}
    z_V = _known_numbers(head.weight)

    def watch_decoder(_: nn.Module, __: Any, output: Any) -> None:
        seen["hidden"] = output.last_hidden_state

    def replace_output(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["entering"] = inputs[0]
        return z_V.expand(output.shape)

    ids = torch.arange(1, 1 + _TOKENS, device=head.weight.device).repeat(2, 1)
    ids[1, -1] = 0  # another last token, which no earlier position may notice
    hooks = [decoder.register_forward_hook(watch_decoder), head.register_forward_hook(replace_output)]
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    name = type(model).__name__
    if len(seen) < 2:
        raise UsageError(f"{name}: it does not run its decoder and its output layer as modules; it is not supported.")
    before = _before(name, seen["hidden"], seen["entering"])
    if logits.shape[-1] != len(z_V):
        raise UsageError(f"{name}: its output layer gives {len(z_V)} numbers and the model {logits.shape[-1]} logits.")
    return HeadForm(before, *_phi(name, z_V.double(), logits[0, -1].double(), _tolerance(logits)))


def _known_numbers(weight_VD: Tensor) -> Tensor:
    powers = torch.tensor([2.0**k for k in _EXPONENTS], device=weight_VD.device)
    return torch.cat([powers, -powers]).repeat(1 + len(weight_VD) // (2 * len(powers)))[: len(weight_VD)]


def _before(name: str, hidden_BTD: Tensor, entering: Tensor) -> float:
    """What the hidden states are multiplied by on their way into the output layer."""
    tolerance = _tolerance(hidden_BTD)
    if not bool(torch.isfinite(hidden_BTD).all()):
        return 1.0  # whoever computes with such a model names the row and the layer
    moved = (hidden_BTD[0, :-1] - hidden_BTD[1, :-1]).double().norm() / hidden_BTD[0, :-1].double().norm()
    if not moved < 10 * tolerance:
        raise UsageError(f"{name}: a token changes the hidden states before it; only causal models are supported.")
    if entering.shape == hidden_BTD.shape:
        if torch.equal(entering, hidden_BTD):
            return 1.0
        x, h = entering.double().flatten(), hidden_BTD.double().flatten()
        factor = float(x @ h / (h @ h))
        if float((x - factor * h).norm()) < tolerance * float(x.norm()):
            return factor
    raise UsageError(
        f"{name}: what enters its output layer is not its decoder's last hidden state, or not times a constant; "
        "it is not supported."
    )


def _phi(name: str, z_V: Tensor, logits_V: Tensor, tolerance: float) -> tuple[float, float | None]:
    """Gain and cap of the function that gives `logits_V` at `z_V`."""
    at_one = z_V == 1.0
    if not bool(at_one.any()):
        raise UsageError(f"{name}: its vocabulary of {len(z_V)} is too small to find its head.")
    gain = float(logits_V[at_one][0])
    if torch.allclose(logits_V, gain * z_V, rtol=tolerance, atol=0):
        return gain, None
    cap = float(logits_V.abs().max())
    smallest = int(z_V.abs().argmin())
    gain = float(logits_V[smallest] / z_V[smallest])
    gain = 1.0 if abs(gain - 1) < tolerance else gain
    if torch.allclose(logits_V, cap * torch.tanh(gain * z_V / cap), rtol=2 * tolerance, atol=0):
        return gain, cap
    raise UsageError(
        f"{name}: its logits are neither a multiple of its output layer's numbers nor soft-capped ones; "
        "it is not supported."
    )


def _tolerance(values: Tensor) -> float:
    """Relative; by the digits that the format has."""
    return 1e-4 if values.dtype in (torch.float32, torch.float64) else 2e-2
