"""The direction in which Adam would step for one row's gradient: what LESS takes as a training row's feature.

    Gamma(g) = (b1 m + (1 - b1) g) / sqrt(b2 v + (1 - b2) g^2 + eps)        elementwise

with m and v the warm-up optimiser's moments of the adapter's factors after its last step (LESS, Xia et al. 2024, arXiv
2402.04333, section 3.1). As in the authors' code eps stands inside the root and nothing is corrected for bias. It
is not linear in g, so it acts on whole per-row gradients, before any projection.

Legend: B rows, r rank, d columns of a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ntkcli.engine.models.adapters import AdaptedLayer
from ntkcli.errors import SpecError


@dataclass(frozen=True, slots=True)
class FactorMoments:
    """Of one factor, laid out as the engine lays out its gradient: `mean` and `square` (r, d) float32."""

    mean: Tensor
    square: Tensor
    beta1: float
    beta2: float
    eps: float

    def direction(self, gradient_Brd: Tensor, alpha: Tensor) -> Tensor:
        """Gamma of gradients whose rows carry the projection's signs `alpha` (r,); the result carries them too."""
        first = torch.lerp(gradient_Brd, alpha[:, None] * self.mean, self.beta1)
        second = gradient_Brd.square().mul_(1 - self.beta2).add_(self.beta2 * self.square + self.eps)
        return first.mul_(second.rsqrt_())


def load_moments(path: Path, layers: Sequence[AdaptedLayer], device: torch.device) -> dict[str, FactorMoments]:
    """The moments of each layer's factors, by `<layer>.lora_A` and `<layer>.lora_B`.

    The file is what `engine.training.moments` writes; SpecError if it is not of this adapter. Memory: twice the
    adapter's parameters.
    """
    found: dict[str, FactorMoments] = {}
    with safe_open(str(path), framework="pt", device=str(device)) as file:
        said = file.metadata() or {}
        keys = set(file.keys())
        for layer in layers:
            if layer.b is None:
                raise _other_adapter(path, f"the B of {layer.name} is 0, so it was never trained")
            rank, shapes = layer.a.shape[0], {"lora_A": layer.a.shape[1], "lora_B": layer.b.shape[0]}
            for factor, columns in shapes.items():
                name = f"{layer.name}.{factor}"
                if not {f"{name}.exp_avg", f"{name}.exp_avg_sq"} <= keys:
                    raise _other_adapter(path, f"it has no moments of {name}")
                # B's gradient (out, r) is made transposed, so that its rows are the rank's like A's.
                mean, square = (
                    tensor.T.contiguous() if factor == "lora_B" else tensor
                    for tensor in (file.get_tensor(f"{name}.exp_avg"), file.get_tensor(f"{name}.exp_avg_sq"))
                )
                if mean.shape != (rank, columns) or square.shape != mean.shape:
                    raise _other_adapter(path, f"its moments of {name} are {tuple(mean.shape)}")
                values = (float(said[key]) for key in ("beta1", "beta2", "eps"))
                found[name] = FactorMoments(mean, square, *values)
    return found


def _other_adapter(path: Path, why: str) -> SpecError:
    return SpecError(
        f"{path} does not fit the adapter: {why}.", "Run `ntksel finetune --keep-optimizer` under a new --name."
    )
