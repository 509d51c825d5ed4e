"""Directions in logit space: where a feature's backward begins, at the cost of no logits for a linear head.

For f = sum_t w_t v·logits_t the gradient at the hidden state of token t is w_t W^T v: a constant vector for a linear
head. Probes (docs/method.md):

    sum          v = 1, the paper's (arXiv 2511.07380, section 4)
    rademacher   v = ±1 by hash, the same for every row; E <∇v·f, ∇v·f'> = tr Θ(x, x')   (Hutchinson)
    centred      v - mean(v): the trace of the kernel that softmax can see; a shift of all logits changes nothing

and for kind `loss` the gradient of the mean cross-entropy, which needs the logits: they are computed in blocks of
positions that take `LOGIT_BLOCK_BYTES` at most. So are they for heads with a soft cap c·tanh(z/c), under any probe.

Legend: B rows, T tokens, D hidden size, V vocabulary, N positions of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ntkcli.engine.batches import Batch
from ntkcli.engine.gradients.registry import PROBES
from ntkcli.engine.models.heads import HeadForm
from ntkcli.engine.models.loading import head_form, head_of

LOGIT_BLOCK_BYTES = 256 * 2**20
"""Bound on the float32 logits that are held at once; three such blocks may stand at a time, five with a soft cap."""


FLOAT16_TIMES = 256.0
"""How much larger gradients are in float16. Its numbers end at 65,504, and a backward may grow them a hundredfold."""


class AnyProbe(Protocol):
    """A probe with the scale that it leaves out of its gradients."""

    @property
    def scale(self) -> float:
        """See `Probe`."""

    def __call__(self, hidden_BTD: Tensor, batch: Batch, /) -> Tensor:
        """See `Probe`."""


class LogitProbe:
    """f = sum_t w_t v·logits_t for one direction v. `scale` was left out of the gradient."""

    def __init__(self, model: Any, name: str, *, seed: int = 0, number: int = 0) -> None:
        self._head, self._form = head_of(model), head_form(model)
        self._v_V = direction(name, len(self._head.weight), seed=seed, number=number).to(self._head.weight.device)
        u_D = _combine(self._head.weight.detach(), self._v_V)
        length = float(torch.linalg.vector_norm(u_D)) or 1.0
        self.scale = self._form.factor * length
        self._unit_D = (u_D / length).float()

    def __call__(self, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        """The gradient of f at the hidden states (B, T, D), float32, less `scale`, so that it is of order one."""
        if self._form.cap is None:
            return batch.weight[..., None] * self._unit_D

        def slope(z_NV: Tensor, _: Tensor) -> Tensor:
            return self._v_V * self._form.slope(self._form.logits(z_NV))

        return _through_logits(self._head, self._form, hidden_BTD, batch, slope) / self.scale


class LossProbe:
    """f = sum_t w_t cross-entropy of the next token: kind `loss`."""

    def __init__(self, model: Any) -> None:
        self._head, self._form, self.scale = head_of(model), head_form(model), 1.0

    def __call__(self, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        """The same of f. The weight of a row's last position must be 0: nothing follows it."""

        def slope(z_NV: Tensor, target_N: Tensor) -> Tensor:
            logits_NV = self._form.logits(z_NV)
            gradient_NV = torch.softmax(logits_NV, dim=-1)
            gradient_NV[torch.arange(len(target_N), device=target_N.device), target_N] -= 1
            gradient_NV *= self._form.slope(logits_NV)
            return gradient_NV

        return _through_logits(self._head, self._form, hidden_BTD, batch, slope)


class ScaledProbe:
    """A probe whose gradients are `times` as large, a power of two: no digit changes that a number has room for."""

    def __init__(self, probe: AnyProbe, times: float) -> None:
        self._probe, self._times = probe, times
        self.scale = probe.scale / times

    def __call__(self, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        """As `Probe`."""
        return self._probe(hidden_BTD, batch) * self._times


def with_room(probe: AnyProbe, dtype: torch.dtype) -> AnyProbe:
    """The probe for a backward in this dtype: in float16 its gradients are made larger, and its scale smaller.

    A mean over 500 positions of hidden size 4,096 begins with numbers of 3e-5, and below 6e-5 float16 loses digits.
    """
    return ScaledProbe(probe, FLOAT16_TIMES) if dtype == torch.float16 else probe


def direction(name: str, size: int, *, seed: int, number: int) -> Tensor:
    """v (V,) float32: a pure function of (name, seed, number, index)."""
    probe = PROBES.get(name)
    with PROBES.blaming(name):
        v_V = np.asarray(probe.direction(size, seed=seed, number=number))
        if v_V.shape != (size,) or v_V.dtype != np.float32 or not np.isfinite(v_V).all():
            raise ValueError(f"its direction is {v_V.dtype} {v_V.shape}, expected {size} finite float32 numbers")
    return torch.from_numpy(v_V)


def _combine(weight_VD: Tensor, v_V: Tensor) -> Tensor:
    """W^T v (D,) float64, in blocks of rows: no copy of the head."""
    total = torch.zeros(weight_VD.shape[1], dtype=torch.float64, device=weight_VD.device)
    for start in range(0, len(v_V), 8192):
        total += v_V[start : start + 8192].double() @ weight_VD[start : start + 8192].double()
    return total


def _through_logits(
    head: nn.Linear, form: HeadForm, hidden_BTD: Tensor, batch: Batch, slope: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """w_t W^T slope(z_t, next token) at the positions of nonzero weight, block by block."""
    weight_VD = head.weight.detach()
    upstream = torch.zeros(hidden_BTD.shape, dtype=torch.float32, device=hidden_BTD.device)
    block = max(1, LOGIT_BLOCK_BYTES // (4 * weight_VD.shape[0]))
    for where, following in zip(torch.split(batch.weighted, block), torch.split(batch.following, block), strict=True):
        index = where.unbind(dim=1)
        entering_ND = hidden_BTD[index] if form.before == 1.0 else hidden_BTD[index] * form.before
        z_NV = (entering_ND @ weight_VD.T).float()
        if head.bias is not None:
            z_NV = z_NV + head.bias.detach()
        gradient_ND = slope(z_NV, following).to(weight_VD.dtype) @ weight_VD
        upstream[index] = batch.weight[index][:, None] * gradient_ND.float()
    return upstream
