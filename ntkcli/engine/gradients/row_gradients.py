"""Per-example LoRA gradients of a function of the logits: batched, without logits, projected as they appear.

One forward of the frozen decoder a batch, and one backward a probe, during which taps on the adapted layers (`taps.py`)
contract gradients row by row and hand them to the projection. Where the backward begins is the probe's business
(`probes.py`). Nothing below the lowest adapter and nothing of the embedding table gets a gradient.

K probes make one row: the sum of their projections, each with random signs of its own, over sqrt(K). Products of
different probes then cancel in the mean, and dot products estimate the mean of the K kernels.

Legend: B rows, T tokens, D hidden size, p size of the projection, L adapted layers, K probes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import final_hidden, pad
from ntkcli.engine.gradients.adam import FactorMoments
from ntkcli.engine.gradients.probes import AnyProbe
from ntkcli.engine.gradients.projections import Projection
from ntkcli.engine.gradients.taps import Inputs, LayerTap
from ntkcli.engine.gradients.token_products import Directions, TokenProducts, adjoint
from ntkcli.engine.hashing import signs
from ntkcli.engine.models.adapters import AdaptedLayer, check_decoder_holds, has_experts
from ntkcli.engine.models.loading import LoadedModel, decoder_of
from ntkcli.engine.rope import length_classes


@dataclass(frozen=True, slots=True)
class Features:
    """What a batch gives: `sketch` (B, p) float32 of unit gradients, `norm` (B,) float32, `layer_norms` (B, L)."""

    sketch: Tensor
    norm: Tensor
    layer_norms: Tensor


class GradientEngine:
    """Computes the features of batches of rows. Owns the model: its adapted layers are tapped for good.

    Memory: the model, activations of one batch, and (B, p) floats; independent of the number of rows. `watch` is given
    the final hidden states of each batch (B, T, D), detached, and its rows.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        layers: Sequence[AdaptedLayer],
        *,
        projection: Projection,
        probes: Sequence[AnyProbe],
        seed: int = 0,
        moments: Mapping[str, FactorMoments] | None = None,
        watch: Callable[[Tensor, Sequence[Encoded]], None] | None = None,
    ) -> None:
        check_decoder_holds(list(layers), loaded.model)
        self._loaded, self._watch = loaded, watch
        self._decoder = decoder_of(loaded.model)
        self._whole = length_classes(loaded.model.config) is not None
        self._projection = projection
        self._inputs = Inputs(sorts_tokens=has_experts(loaded.model))
        self._taps = [LayerTap(layer, projection, loaded.dtype, self._inputs) for layer in layers]
        for tap in self._taps:
            tap.moments = moments or {}
        self.layer_names = [layer.name for layer in layers]
        self._probes: list[AnyProbe] = list(probes)
        self._signs = [
            torch.from_numpy(signs(seed, f"mix|{k}", projection.dim)).to(loaded.device) for k in range(len(probes))
        ]

    @property
    def dim(self) -> int:
        """Numbers of a row's feature."""
        return self._projection.dim

    def features(self, rows: Sequence[Encoded], *, positions: str) -> Features:
        """Features of the rows, on the model's device; `positions` as in `batches.position_weights`.

        Non-finite values are passed on in `norm` and `layer_norms`: the caller knows the row's name.
        """
        parts: list[Tensor] = []
        squares: list[Tensor] = []
        for k, (part_Bp, part_BL) in enumerate(self.each_probe(rows, positions=positions)):
            parts.append(part_Bp * self._signs[k] if len(self._probes) > 1 else part_Bp)
            squares.append(part_BL)
        count = len(self._probes)
        squares_BL = torch.stack(squares).sum(dim=0) / count
        norm_B = squares_BL.sum(dim=1).sqrt()
        unit_B = torch.where(norm_B > 0, norm_B, 1.0) * count**0.5
        return Features(torch.stack(parts).sum(dim=0) / unit_B[:, None], norm_B, squares_BL.sqrt())

    def token_products(self, row: Encoded, *, positions: str, direction_p: Tensor) -> Tensor:
        """What each token adds to the product of the row's feature, at its own length, with a direction (p,).

        (T,) float64 on the model's device; their sum is norm · <sketch, direction> of `features`. Memory as for a batch
        of this row, and the direction as factors: P float32 numbers. Not for Adam's directions, which are not linear.
        """
        products = TokenProducts()
        self._inputs.by_token = products
        found_T = torch.zeros(len(row), dtype=torch.float64, device=self._loaded.device)
        try:
            steps = self.each_probe([row], positions=positions)
            for k, probe in enumerate(self._probes):
                mixed_p = direction_p * self._signs[k] if len(self._probes) > 1 else direction_p
                products.aim(self._directions(mixed_p.float()))
                next(steps)
                part_T = products.take()[0]
                found_T[: len(part_T)] += part_T * probe.scale
        finally:
            self._inputs.by_token = None
        found_T /= len(self._probes) ** 0.5
        return found_T

    def _directions(self, direction_p: Tensor) -> Directions:
        """A direction of the projection's as one of each layer's factors."""
        found: dict[str, tuple[Tensor, Tensor | None]] = {}
        for tap in self._taps:
            rows, columns = tap.shape
            to_b, to_a = tap.factors
            m_b = adjoint(self._projection, to_b, tap.rank, rows, direction_p)
            m_a = None if to_a is None else adjoint(self._projection, to_a, tap.rank, columns, direction_p)
            found[tap.name] = m_b, m_a
        return found

    def each_probe(
        self, rows: Sequence[Encoded], *, positions: str, probes: Sequence[AnyProbe] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Probe by probe, from one forward: projected gradients (B, p) and squared norms of each layer (B, L).

        `probes`: others than the engine's own.
        """
        probes = self._probes if probes is None else probes
        pad_id = self._loaded.tokenizer.pad_token_id or 0
        batch = pad(rows, positions=positions, pad_id=pad_id, device=self._loaded.device, whole=self._whole)
        self._inputs.begin(batch.ids)
        with torch.enable_grad():
            hidden_BTD = final_hidden(self._decoder, batch)
        if self._watch is not None:
            self._watch(hidden_BTD.detach(), rows)
        for k, probe in enumerate(probes):
            upstream_BTD = probe(hidden_BTD.detach(), batch).to(hidden_BTD.dtype)
            last = k + 1 == len(probes)
            part_Bp, part_BL = self._backward(hidden_BTD, upstream_BTD, probe.scale, keep_graph=not last)
            yield part_Bp * probe.scale, part_BL * probe.scale**2

    def _backward(
        self, hidden_BTD: Tensor, upstream_BTD: Tensor, scale: float, *, keep_graph: bool
    ) -> tuple[Tensor, Tensor]:
        """One backward: projected gradients (B, p) and squared norms of each layer (B, L), without the `scale`."""
        total = self._projection.zeros(len(hidden_BTD))
        for tap in self._taps:
            tap.begin(total, scale)
        torch.autograd.backward(hidden_BTD, upstream_BTD, retain_graph=keep_graph)
        self._inputs.finish()
        return self._projection.finish(total), _squares([tap.end() for tap in self._taps], like=total)


def _squares(norms: Sequence[Sequence[Tensor]], *, like: Tensor) -> Tensor:
    """Each layer's squared norms (B, L) from those of its factors, in three operations however many there are.

    Zeros where gradients were not contracted (`token_products`); `like` has B rows.
    """
    factors = len(norms[0])
    if not factors:
        return torch.zeros(len(like), len(norms), device=like.device)
    if any(len(layer) != factors for layer in norms):
        return torch.stack([torch.stack(list(layer)).square().sum(dim=0) for layer in norms], dim=1)
    every = torch.stack([one for layer in norms for one in layer]).square()
    return every.view(len(norms), factors, -1).sum(dim=1).T
