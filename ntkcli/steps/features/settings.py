"""The settings of a features artefact: what they may be, and the spec that they make."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntkcli import feature_encoding
from ntkcli.engine.gradients.registry import PROBES
from ntkcli.errors import UsageError
from ntkcli.identity import AdapterIdentity, ModelIdentity
from ntkcli.steps.features.adam_moments import AdamState
from ntkcli.steps.shared.model_settings import encoder_spec

if TYPE_CHECKING:
    from ntkcli.engine.features.extract import GradientSettings

VERSION = 2
"""Of the features, in every spec: goes up when the engine gives other values for the same settings."""
KINDS = ("ntk", "loss", "embed")
POSITIONS = ("completion", "all", "last")
POOLINGS = ("mean", "weighted", "last")
PROJECTIONS = ("sjlt", "rademacher", "none")
PROJECTION_VERSION = 1
"""Of the projections, in every spec: goes up when the same seed gives other numbers."""
DEFAULT_POSITIONS = {"ntk": "completion", "loss": "completion", "embed": "all"}
"""ntk (docs/method.md): features over the answer find skill and topic. embed: the paper's mean over all tokens."""


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """All settings of a features artefact that can change a value, as the options name them."""

    kind: str
    max_length: int
    positions: str
    pooling: str
    probe: str
    probes: int
    layers: str
    projection: str
    dim: int
    seed: int
    dtype: str
    rank: int
    target_modules: str
    adapter_seed: int
    store_dtype: str
    thinking: bool | None = None
    adam: AdamState | None = None

    @property
    def moments(self) -> Path | None:
        """The file of the optimiser's moments, with `adam`."""
        return self.adam.path if self.adam else None

    def spec(self, model: ModelIdentity, adapter: AdapterIdentity | None) -> dict[str, Any]:
        """The spec without data and rows: what two artefacts must agree in for their features to compare."""
        spec: dict[str, Any] = {
            "kind": self.kind,
            "version": VERSION,
            "model": model.spec,
            "adapter": adapter.spec if adapter else None,
            "encoder": encoder_spec(self.max_length, self.thinking),
            "positions": self.positions,
            "dtype": self.dtype,
            "store_dtype": self.store_dtype,
        }
        if self.kind == "embed":
            return spec | {"pooling": self.pooling}
        if adapter is None:
            fresh = {"rank": self.rank, "target_modules": self.target_modules, "seed": self.adapter_seed}
            spec["adapter"] = {"fresh": fresh}
        if self.adam is not None:
            spec["adam"] = self.adam.spec
        if self.kind == "ntk":
            spec |= {"probe": self.probe, "probes": self.probes}
            if PROBES.get(self.probe).seeded:
                spec["probe_seed"] = self.seed
            spec |= PROBES.spec(self.probe)
        spec |= {"layers": self.layers, "projection": {"name": self.projection, "version": PROJECTION_VERSION}}
        if self.projection != "none":
            spec["projection"] |= {"dim": self.dim, "seed": self.seed}
        return spec

    def gradient(self) -> GradientSettings:
        """The part of the settings that the engine takes, for the kinds ntk and loss."""
        from ntkcli.engine.features.extract import GradientSettings

        return GradientSettings(**{f.name: getattr(self, f.name) for f in fields(GradientSettings)})


def check_choices(
    *, kind: str, positions: str | None, pooling: str, probe: str, projection: str, store_dtype: str
) -> None:
    """UsageError if one of them is none of those there are."""
    for option, value, known in (
        ("--kind", kind, KINDS),
        ("--positions", positions, (None, *POSITIONS)),
        ("--pooling", pooling, POOLINGS),
        ("--projection", projection, PROJECTIONS),
        ("--store-dtype", store_dtype, feature_encoding.DTYPES),
    ):
        if value not in known:
            raise UsageError(f"{option} {value} is not known.", f"Give one of: {', '.join(filter(None, known))}.")
    PROBES.require(probe)


def check_numbers(
    *, kind: str, positions: str | None, probe: str, probes: int, shard: tuple[int, int], adam: bool = False
) -> None:
    """UsageError if one of them is out of range, or they don't go together."""
    if adam and kind != "loss":
        raise UsageError(f"--adam means nothing to --kind {kind}: it is of training's gradients.", "Give --kind loss.")
    if probes < 1:
        raise UsageError(f"--probes {probes} is too few.", "Give 1 or more.")
    if kind == "ntk" and probes > 1 and not PROBES.get(probe).seeded:
        raise UsageError(
            f"--probes {probes}: {probe} is one direction in logit space, and {probes} of it say no more than one.",
            "Give --probe rademacher or --probe centred, or leave --probes out.",
        )
    if kind == "loss" and positions not in (None, "completion"):
        raise UsageError(f"--positions {positions}: the loss is over the answer's tokens.", "Leave it out.")
    if not 0 <= shard[0] < shard[1]:
        raise UsageError(f"--shard {shard[0]}/{shard[1]} is not a valid shard.", "Give I/N with I from 0 to N-1.")
