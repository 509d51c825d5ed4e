"""Switch an adapter off for a forward, without a second model: its low-rank updates are left out or taken out again.

Only where the adapter is nothing but such updates: `AdapterSwitch` compares the model with what it was before the
adapter was attached, weight by weight and by what a few tokens give, and refuses any other adapter by name.

Legend: y = W x + s·(B A x + shift); W has the update in it where a layer is merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ntkcli.engine.models.adapters import AdaptedLayer
from ntkcli.engine.models.attach import weight_hashes
from ntkcli.engine.models.loading import LoadedModel, decoder_of
from ntkcli.errors import UsageError
from ntkcli.identity import AdapterIdentity

_TOKENS = 6
_TOLERANCE = {torch.float32: 1e-4}
_HALF = 2e-2
"""Of the hidden states' norm, by the dtype's digits: what rounding leaves of an update that is taken out again."""


@dataclass(frozen=True, slots=True)
class BareModel:
    """What a model was before an adapter was attached: its weights' hashes and the hidden states of a few tokens."""

    hashes: dict[str, tuple[torch.Size, torch.dtype, int]]
    hidden: Tensor

    @classmethod
    def of(cls, loaded: LoadedModel) -> BareModel:
        """To be called before the adapter is attached."""
        return cls(weight_hashes(loaded.model), _few_tokens(loaded))


class AdapterSwitch:
    """Runs a model as it was before an adapter was attached. To be made before anything else stands in for its layers.

    `layers` are those of the adapter, merged or not.

    Raises:
        UsageError: the adapter changes the model in another way too; names the weight.
    """

    def __init__(
        self, loaded: LoadedModel, bare: BareModel, layers: Sequence[AdaptedLayer], adapter: AdapterIdentity
    ) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        self._forwards = [(layer.module, _without(layer, layer.module.forward)) for layer in layers]
        self._tuners = [module for module in loaded.model.modules() if isinstance(module, BaseTunerLayer)]
        merged = {layer.name for layer in layers if layer.merged}
        if (name := _changed(bare.hashes, weight_hashes(loaded.model), merged)) is not None:
            raise _refused(adapter, f"changes {name}")
        with self.off():
            hidden = _few_tokens(loaded)
        moved = float((hidden - bare.hidden).norm() / bare.hidden.norm().clamp(min=1e-30))
        if not moved <= _TOLERANCE.get(loaded.dtype, _HALF) and bool(torch.isfinite(bare.hidden).all()):
            raise _refused(adapter, f"changes the base weights of its layers ({moved:.1%} of the hidden states)")

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model without the adapter, within."""
        before = [vars(module).get("forward") for module, _ in self._forwards]
        try:
            for module, forward in self._forwards:
                module.forward = forward
            for tuner in self._tuners:
                tuner.enable_adapters(False)
            yield
        finally:
            for tuner in self._tuners:
                tuner.enable_adapters(True)
                tuner.requires_grad_(False)
            for (module, _), own in zip(self._forwards, before, strict=True):
                if own is None:
                    del module.forward
                else:
                    module.forward = own


def _without(layer: AdaptedLayer, own: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The layer's own forward, less the update where that is in its weight."""
    if not layer.merged or layer.b is None:
        return own
    linear = nn.functional.linear
    a, b, shift = layer.a, layer.scale * layer.b, None if layer.shift is None else layer.scale * layer.shift

    def less(x: Tensor) -> Tensor:
        return own(x) - linear(linear(x, a), b, shift)

    return less


def _few_tokens(loaded: LoadedModel) -> Tensor:
    ids = torch.arange(1, 1 + _TOKENS, device=loaded.device)[None]
    with torch.inference_mode():
        hidden: Tensor = decoder_of(loaded.model)(input_ids=ids, use_cache=False).last_hidden_state.float()
    return hidden


def _changed(before: dict[str, Any], after: dict[str, Any], merged: set[str]) -> str | None:
    """The first weight that is another one than before, but for those with an update merged in."""
    plain = {name.replace(".base_layer.", "."): value for name, value in after.items() if ".lora_" not in name}
    for name in [*before, *(name for name in plain if name not in before)]:
        if name.rpartition(".")[0] not in merged and before.get(name) != plain.get(name):
            return name
    return None


def _refused(adapter: AdapterIdentity, why: str) -> UsageError:
    return UsageError(
        f"--losses: the adapter {adapter.folder} {why}, which can't be switched off for the loss before it.",
        "Give a plain LoRA adapter on linear layers, or leave --losses out.",
    )
