"""Taps on adapted layers: each stands in for a layer's forward and contracts per-row gradients in its backward.

A tap sees the layer's input x and the gradient g at its output. Of y = W x + s B (A x), row by row:

    df/dB = s sum_t g_t (A x_t)^T        df/dA = s sum_t (B^T g_t) x_t^T

Both go to the projection as they appear and are forgotten. Layers that read the same x (q, k and v; gate and up) are
contracted together. Where s BA is not in W, the forward needs A x_t and the backward B^T g_t already: they are kept.

Legend: B rows, T tokens, i inputs, o outputs, d either, r rank, R the ranks of several layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ntkcli.engine.gradients.adam import FactorMoments
from ntkcli.engine.gradients.projections import Projection
from ntkcli.engine.gradients.sketch import FactorSketch
from ntkcli.engine.models.adapters import AdaptedLayer
from ntkcli.engine.models.beside import is_shared, product_with
from ntkcli.errors import UsageError


@dataclass(slots=True)
class _Total:
    """What one layer adds to during a backward: the projections of all layers, and its own factors' norms (B,)."""

    sketch: Tensor
    norms: list[Tensor]
    collected: bool = False


ByToken = Callable[[Tensor, "Sequence[Arrived]"], None]
"""Takes an input x (B, T, i) and what arrived for it, in place of the contraction over positions."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """An output gradient (B, T, o) for a tap; A x and B^T g (B, T, r) of a layer that runs beside its weight."""

    tap: LayerTap
    g: Tensor
    ax: Tensor | None = None
    known_bg: Tensor | None = None

    def bg(self) -> Tensor | None:
        """B^T g; None where B = 0."""
        if self.known_bg is not None or self.tap.b_out_r is None:
            return self.known_bg
        return self.g @ self.tap.b_out_r


class _Input:
    """What one forward fed to `taps`, and the output gradients that a backward has brought for it so far."""

    def __init__(self, by_token: ByToken | None) -> None:
        self.taps: list[LayerTap] = []
        self._by_token = by_token
        self._arrived: list[Arrived] = []
        self._x_BTi: Tensor | None = None

    def collect(self, x_BTi: Tensor, arrived: Arrived) -> None:
        """Keep a tap's output gradient; contract when the last one is there."""
        self._x_BTi = x_BTi
        self._arrived.append(arrived)
        if len(self._arrived) == len(self.taps):
            self.contract()

    def contract(self) -> None:
        """Per-row gradients of the taps that have arrived, handed to each."""
        x_BTi, arrived = self._x_BTi, self._arrived
        self._x_BTi, self._arrived = None, []
        if x_BTi is None:
            return
        if self._by_token is not None:
            self._by_token(x_BTi, arrived)
            return
        thin = iter(_together(x_BTi, [one.tap for one in arrived if one.ax is None]))
        for one in arrived:
            ax_BTr = next(thin) if one.ax is None else one.ax
            one.tap.add_b(_bmm_float32(ax_BTr.transpose(1, 2), one.g))
        thins = [(one.tap, bg_BTr) for one in arrived if (bg_BTr := one.bg()) is not None]
        if thins:
            gradient_BRd = _bmm_float32(torch.cat([bg_BTr for _, bg_BTr in thins], dim=2).transpose(1, 2), x_BTi)
            parts = torch.split(gradient_BRd, [tap.rank for tap, _ in thins], dim=1)
            for (tap, _), part_Brd in zip(thins, parts, strict=True):
                tap.add_a(part_Brd)


def _together(x_BTi: Tensor, taps: Sequence[LayerTap]) -> Sequence[Tensor]:
    """A x of each tap, from one product."""
    if not taps:
        return ()
    thin_BTR = x_BTi @ torch.cat([tap.a_in_r for tap in taps], dim=1)
    return torch.split(thin_BTR, [tap.rank for tap in taps], dim=2)


class Inputs:
    """The inputs of one forward, told apart by where they lie in memory: all stay alive until the backward.

    `sorts_tokens`: the model hands tokens to experts, so that a (B·T, i) input may be in any order. With `by_token` no
    gradient is contracted or projected: it takes what would be.
    """

    def __init__(self, *, sorts_tokens: bool) -> None:
        self.by_token: ByToken | None = None
        self._found: dict[tuple[int, torch.Size, tuple[int, ...]], _Input] = {}
        self._sorts_tokens = sorts_tokens
        self.rows, self._tokens = 0, 0

    def begin(self, ids_BT: Tensor) -> None:
        """Begin the forward of a batch."""
        self._found, (self.rows, self._tokens) = {}, ids_BT.shape

    def holds_rows(self, x: Tensor) -> bool:
        """Whether x holds the batch's tokens row by row: (B, T, i), (B, 1, T, i), or (B·T, i) where none are sorted."""
        if x.numel() != self.rows * self._tokens * x.shape[-1]:
            return False
        return len(x) == self.rows if x.dim() > 2 else not self._sorts_tokens

    def by_row(self, x: Tensor) -> Tensor:
        """(B, T, i)."""
        return x.reshape(self.rows, self._tokens, x.shape[-1])

    def join(self, tap: LayerTap, x: Tensor) -> _Input:
        """The input that lies where `x` does, which `tap` reads too."""
        found = self._found.setdefault((x.data_ptr(), x.shape, x.stride()), _Input(self.by_token))
        found.taps.append(tap)
        return found

    def finish(self) -> None:
        """End a backward: contract those of which some tap took no part in it."""
        for found in self._found.values():
            found.contract()


class LayerTap:
    """One adapted layer: stands in for its forward and collects per-row gradients in its backward."""

    def __init__(self, layer: AdaptedLayer, projection: Projection, dtype: torch.dtype, inputs: Inputs) -> None:
        # Not the module itself, which holds the tap by its forward: it would stay until the next collection.
        self.name, self.shape = layer.name, layer.shape
        self.inputs, self._projection = inputs, projection
        self.rank, columns_in = layer.a.shape
        columns_out = self.shape[0]
        self._to_b = projection.factor(f"{layer.name}.lora_B", self.rank, columns_out)
        # s and the projection's row signs alpha ride on the thin factors, where they cost nothing.
        self.a_in_r = (layer.scale * self._to_b.alpha[:, None] * layer.a).T.to(dtype).contiguous()
        self.b_out_r: Tensor | None = None
        if layer.b is not None:
            self._to_a = projection.factor(f"{layer.name}.lora_A", self.rank, columns_in)
            self.b_out_r = (layer.scale * layer.b * self._to_a.alpha).to(dtype).contiguous()
        self.beside: _Beside | None = None
        if not layer.merged and layer.b is not None:
            # The signs again, once more: they cancel.
            b_r_out, a_r_in = self._to_b.alpha[:, None] * layer.b.T, self._to_a.alpha[:, None] * layer.a
            shift = None if layer.shift is None else (layer.scale * layer.shift).to(dtype)
            self.beside = _Beside(b_r_out.to(dtype).contiguous(), a_r_in.to(dtype).contiguous(), shift)
        self.moments: Mapping[str, FactorMoments] = {}  # by factor: gradients become Adam's directions
        self._scale = 1.0
        self._total: _Total | None = None
        self._anchor = torch.zeros((), requires_grad=True)  # makes the output need a gradient even when x needs none
        layer.module.forward = self._stand_in(layer, dtype)

    def _stand_in(self, layer: AdaptedLayer, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """The layer's forward with the tap in it."""
        weight, bias = layer.weight, getattr(layer.module, "bias", None)
        if weight is not None and is_shared(weight):  # whole while the layer's block computes, and only then
            find = layer.find_weight()
            return lambda x: _Tap.apply(self._checked(x), *find(), self._anchor, self)  # type: ignore[no-untyped-call]  # torch's
        if weight is not None:
            return lambda x: _Tap.apply(self._checked(x), weight, bias, self._anchor, self)  # type: ignore[no-untyped-call]
        # Its own forward knows what the packed weight stands for, and has its gradient.
        own: Callable[[Tensor], Tensor] = layer.module.forward
        beside = self.beside
        if beside is None or layer.b is None:
            return lambda x: _Catch.apply(own(x), self._checked(x).detach(), self._anchor, self)  # type: ignore[no-untyped-call]
        a, b = layer.a.to(dtype), (layer.scale * layer.b).to(dtype)
        linear = torch.nn.functional.linear

        def added(x: Tensor) -> Tensor:
            y = own(x) + linear(linear(x, a), b, beside.shift)
            return _Catch.apply(y, self._checked(x).detach(), self._anchor, self)  # type: ignore[no-untyped-call, no-any-return]

        return added

    def _checked(self, x: Tensor) -> Tensor:
        """The input of the layer, if its rows are the batch's."""
        if not self.inputs.holds_rows(x):
            raise UsageError(
                f"{self.name} is given its tokens without their rows; an adapter there is not supported.",
                "Leave it out: --target-modules q_proj,k_proj,v_proj,o_proj adapts the attention alone.",
            )
        return x

    def begin(self, total: Tensor, scale: float) -> None:
        """Collect the next backward into the accumulator `total`; its gradients are to be taken `scale` times."""
        self._scale = scale
        self._total = _Total(total, [])

    def end(self) -> list[Tensor]:
        """The gradient norm of each row in this layer's factors, (B,) float32 each: B's and, where B is not 0, A's."""
        total, self._total = self._total, None
        if total is None or not total.collected:
            raise UsageError(
                f"{self.name} took no part in the computation: the model uses its weight in another way.",
                "Leave it out by --target-modules.",
            )
        return total.norms

    def collect(self, found: _Input, x: Tensor, g: Tensor, ax: Tensor | None = None, bg: Tensor | None = None) -> None:
        """One backward's input and output gradient, and A x and B^T g where they are known."""
        if self._total is None or self._total.collected:
            raise UsageError(f"{self.name} runs twice in one forward; its gradients can't be separated.")
        self._total.collected = True
        by_row = self.inputs.by_row
        known = (None if thin is None else by_row(thin) for thin in (ax, bg))
        found.collect(by_row(x), Arrived(self, by_row(g), *known))

    @property
    def factors(self) -> tuple[FactorSketch, FactorSketch | None]:
        """The projection's factors of B and, where B is not 0, of A."""
        return self._to_b, None if self.b_out_r is None else self._to_a

    def add_b(self, gradient_Brd: Tensor) -> None:
        """Add the gradient of B, transposed."""
        self._add(gradient_Brd, self._to_b, "lora_B")

    def add_a(self, gradient_Brd: Tensor) -> None:
        """Add the gradient of A."""
        self._add(gradient_Brd, self._to_a, "lora_A")

    def _add(self, gradient_Brd: Tensor, factor: FactorSketch, name: str) -> None:
        if self._total is not None:
            if self.moments:
                moments = self.moments[f"{self.name}.{name}"]
                gradient_Brd = moments.direction(gradient_Brd * self._scale, factor.alpha) / self._scale
            self._total.norms.append(torch.linalg.vector_norm(gradient_Brd, dim=(1, 2)))
            self._projection.add(self._total.sketch, gradient_Brd, factor)


@dataclass(frozen=True, slots=True)
class _Beside:
    """What a layer adds beside its weight: `b` (r, o) of A x, `a` (r, i) of B^T g, `shift` (o,); signs as the taps'."""

    b: Tensor
    a: Tensor
    shift: Tensor | None


class _Tap(torch.autograd.Function):
    """y = x W^T + bias with frozen W, and what runs beside; the backward hands (x, dy) to the tap and returns dx."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor, tap: LayerTap) -> Tensor:
        del anchor
        ctx.weight, ctx.tap, ctx.input = weight, tap, tap.inputs.join(tap, x)
        if tap.beside is None:
            ctx.save_for_backward(x)
            return torch.nn.functional.linear(x, weight, bias)
        ax = x @ tap.a_in_r
        ctx.save_for_backward(x, ax)
        delta = ax @ tap.beside.b if tap.beside.shift is None else ax @ tap.beside.b + tap.beside.shift
        return product_with(delta, x, weight, bias).detach()  # as `_Catch` does

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        tap, needs_dx = ctx.tap, ctx.needs_input_grad[0]
        if tap.beside is None:
            (x,) = ctx.saved_tensors
            tap.collect(ctx.input, x, grad)
            return (grad @ ctx.weight if needs_dx else None), None, None, None, None
        x, ax = ctx.saved_tensors
        bg = grad @ tap.b_out_r
        tap.collect(ctx.input, x, grad, ax, bg)
        dx = product_with(bg @ tap.beside.a, grad, ctx.weight.T) if needs_dx else None
        return dx, None, None, None, None


class _Catch(torch.autograd.Function):
    """The identity on y, the output of a layer with a forward and a backward of its own; (x, dy) go to the tap."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, anchor: Tensor, tap: LayerTap) -> Tensor:
        del anchor
        ctx.save_for_backward(x)
        ctx.tap, ctx.input = tap, tap.inputs.join(tap, x)
        return y.detach()  # a view could not be added to in place, as Falcon does

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        ctx.tap.collect(ctx.input, x, grad)
        return grad, None, None, None


def _bmm_float32(left: Tensor, right: Tensor) -> Tensor:
    """A batched product with float32 sums, whatever the inputs' dtype."""
    if left.dtype == torch.float32:
        return torch.bmm(left, right)
    if left.device.type == "cuda":
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
