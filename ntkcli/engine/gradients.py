"""Per-example LoRA gradients of f(x) = sum_t w_t v·logits_t: batched, without logits, sketched as they appear.

One forward and one backward of the frozen decoder a batch. Each adapted layer is run through `_Tap`, whose
backward sees the layer's input x and the gradient g at its output and contracts them row by row:

    df/dB = s sum_t g_t (A x_t)^T        df/dA = s sum_t (B^T g_t) x_t^T

then adds both to the sketch and forgets them. The head is linear, so the gradient of v·logits_t at the
hidden state is the constant u = W^T v; where the head has a soft cap, it is computed from the logits in blocks.
Nothing below the lowest adapter and nothing of the embedding table gets a gradient.

The backward starts from u/|u|: gradients of order one in any dtype. The norm returned is scaled back.

Legend: B rows, T tokens, D hidden size, V vocabulary, r rank, p sketch size, L adapted layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.adapters import AdaptedLayer, check_decoder_holds
from ntkcli.engine.batches import Batch, pad
from ntkcli.engine.models import LoadedModel, decoder_of, head_of, soft_cap
from ntkcli.engine.sketch import FactorSketch, Sketch
from ntkcli.errors import UsageError

LOGIT_BLOCK_BYTES = 256 * 2**20
"""Bound on the logits that a soft-capped head needs at once."""


@dataclass(frozen=True, slots=True)
class Features:
    """What a batch gives: `sketch` (B, p) float32 of unit gradients, `norm` (B,) float32, `layer_norms` (B, L)."""

    sketch: Tensor
    norm: Tensor
    layer_norms: Tensor


class GradientEngine:
    """Computes the features of batches of rows. Owns the model: its adapted layers are tapped for good.

    Memory: the model, activations of one batch, and (B, p) floats; independent of the number of rows.
    """

    def __init__(self, loaded: LoadedModel, layers: Sequence[AdaptedLayer], *, dim: int, seed: int) -> None:
        check_decoder_holds(list(layers), loaded.model)
        self._loaded = loaded
        self._decoder = decoder_of(loaded.model)
        self._sketch = Sketch(dim, seed, loaded.device)
        self._taps = [_LayerTap(layer, self._sketch, loaded.dtype) for layer in layers]
        self.layer_names = [layer.name for layer in layers]
        self._probe = sum_probe(loaded.model)

    def features(self, rows: Sequence[Encoded], *, positions: str) -> Features:
        """Features of the rows, on the model's device; `positions` as in `batches.position_weights`.

        Non-finite values are passed on in `norm` and `layer_norms`: the caller knows the row's name.
        """
        pad_id = self._loaded.tokenizer.pad_token_id or 0
        batch = pad(rows, positions=positions, pad_id=pad_id, device=self._loaded.device)
        total = self._sketch.zeros(len(rows))
        for tap in self._taps:
            tap.begin(total)
        hidden_BTD, upstream_BTD, factor = self._forward(batch)
        torch.autograd.backward(hidden_BTD, upstream_BTD)
        squares_BL = torch.stack([tap.end() for tap in self._taps], dim=1)
        norm_B = squares_BL.sum(dim=1).sqrt()
        sketch_Bp = self._sketch.finish(total)
        unit = torch.where(norm_B > 0, norm_B, 1.0)
        return Features(sketch_Bp / unit[:, None], norm_B * factor, squares_BL.sqrt() * factor)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, float]:
        with torch.enable_grad():
            output = self._decoder(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
            hidden_BTD: Tensor = output.last_hidden_state
        upstream_BTD, factor = self._probe(hidden_BTD.detach(), batch.weight)
        return hidden_BTD, upstream_BTD.to(hidden_BTD.dtype), factor


Probe = Callable[[Tensor, Tensor], tuple[Tensor, float]]
"""(hidden (B, T, D), weight (B, T)) → gradient of f at the hidden states (B, T, D), and a factor left out of it."""


def sum_probe(model: Any) -> Probe:
    """The paper's direction v = 1: f is the weighted sum of all logits (arXiv 2511.07380, section 4).

    A bias of the head adds a constant and drops out; constant factors on the logits (Cohere, Granite) are kept.
    """
    weight_VD = head_of(model).weight.detach()
    config = model.config.get_text_config()
    factor = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = soft_cap(model)
    if cap is not None:
        return _capped_probe(weight_VD, cap)
    u_D = weight_VD.sum(dim=0, dtype=torch.float64)
    length = float(torch.linalg.vector_norm(u_D))
    unit_D = (u_D / (length or 1.0)).float()

    def linear(hidden_BTD: Tensor, weight_BT: Tensor) -> tuple[Tensor, float]:
        del hidden_BTD  # the gradient of a linear head does not depend on where it is taken
        return weight_BT[..., None] * unit_D, (length or 1.0) * factor

    return linear


def _capped_probe(weight_VD: Tensor, cap: float) -> Probe:
    """v = 1 through logits c·tanh(z/c): u_t = W^T (1 - tanh^2(W h_t / c)), in blocks of positions."""

    def capped(hidden_BTD: Tensor, weight_BT: Tensor) -> tuple[Tensor, float]:
        upstream = torch.zeros(hidden_BTD.shape, dtype=torch.float32, device=hidden_BTD.device)
        block = max(1, LOGIT_BLOCK_BYTES // (4 * weight_VD.shape[0]))
        for where in torch.split(weight_BT.nonzero(), block):
            index = where.unbind(dim=1)
            slope_NV = 1 - torch.tanh((hidden_BTD[index] @ weight_VD.T).float() / cap) ** 2
            upstream[index] = weight_BT[index][:, None] * (slope_NV.to(weight_VD.dtype) @ weight_VD).float()
        length = float(upstream.abs().max()) or 1.0
        return upstream / length, length

    return capped


@dataclass(slots=True)
class _Total:
    """What one layer adds to during a batch: the sketches of all layers, and its own squared norms (B,)."""

    sketch: Tensor
    squares: Tensor
    collected: bool = False


class _LayerTap:
    """One adapted layer: stands in for its forward and collects per-row gradients in its backward."""

    def __init__(self, layer: AdaptedLayer, sketch: Sketch, dtype: torch.dtype) -> None:
        self.layer, self._sketch = layer, sketch
        rank, columns_in = layer.a.shape
        columns_out = layer.weight.shape[0]
        self._to_b = sketch.factor(f"{layer.name}.lora_B", rank, columns_out)
        self._to_a = sketch.factor(f"{layer.name}.lora_A", rank, columns_in) if layer.b is not None else None
        # s and the row signs alpha ride on the thin factors, where they cost nothing.
        self._a_in_r = (layer.scale * self._to_b.alpha[:, None] * layer.a).T.to(dtype).contiguous()
        if layer.b is not None and self._to_a is not None:
            self._b_out_r = (layer.scale * layer.b * self._to_a.alpha).to(dtype).contiguous()
        self._total: _Total | None = None
        anchor = torch.zeros((), requires_grad=True)  # makes the output need a gradient even when x needs none
        module = layer.module
        weight, bias = layer.weight, getattr(module, "bias", None)
        module.forward = lambda x: _Tap.apply(x, weight, bias, anchor, self)  # type: ignore[no-untyped-call]

    def begin(self, total: Tensor) -> None:
        """Collect the next backward into the accumulator `total`."""
        self._total = _Total(total, torch.zeros(len(total), device=total.device))

    def end(self) -> Tensor:
        """The squared gradient norm of each row in this layer, (B,) float32."""
        total, self._total = self._total, None
        if total is None or not total.collected:
            raise UsageError(
                f"{self.layer.name} took no part in the computation: the model uses its weight in another way.",
                "Leave it out by --target-modules.",
            )
        return total.squares

    def collect(self, x_BTi: Tensor, g_BTo: Tensor) -> None:
        """Contract one backward's input and output gradient, row by row, into the accumulator."""
        if self._total is None or self._total.collected:
            raise UsageError(f"{self.layer.name} runs twice in one forward; its gradients can't be told apart.")
        self._total.collected = True
        self._add(self._total, x_BTi @ self._a_in_r, g_BTo, self._to_b)
        if self._to_a is not None:
            self._add(self._total, g_BTo @ self._b_out_r, x_BTi, self._to_a)

    def _add(self, total: _Total, thin_BTr: Tensor, wide_BTd: Tensor, factor: FactorSketch) -> None:
        gradient_Brd = _bmm_float32(thin_BTr.transpose(1, 2), wide_BTd)
        total.squares += torch.linalg.vector_norm(gradient_Brd, dim=(1, 2)).square()
        self._sketch.add(total.sketch, gradient_Brd, factor)


class _Tap(torch.autograd.Function):
    """y = x W^T + bias with frozen W; the backward hands (x, dy) to the tap and returns dy W where it is needed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor, tap: _LayerTap) -> Tensor:
        del anchor
        ctx.save_for_backward(x)
        ctx.weight, ctx.tap = weight, tap
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (x,) = ctx.saved_tensors
        ctx.tap.collect(x, grad)
        return (grad @ ctx.weight if ctx.needs_input_grad[0] else None), None, None, None, None


def _bmm_float32(left: Tensor, right: Tensor) -> Tensor:
    """A batched product with float32 sums, whatever the inputs' dtype."""
    if left.dtype == torch.float32:
        return torch.bmm(left, right)
    if left.device.type == "cuda":
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
