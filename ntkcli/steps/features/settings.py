"""The settings of a features artefact: what they may be, and the spec that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ntkcli.choices import Dtype, Kind, Pooling, Positions, Projection, StoreDtype, checked
from ntkcli.engine.gradients.registry import PROBES
from ntkcli.errors import UsageError
from ntkcli.identity import AdapterIdentity, ModelIdentity
from ntkcli.kernel_presets import DEFAULT
from ntkcli.seeds import check_seed
from ntkcli.steps.features.adam_moments import AdamState
from ntkcli.steps.shared.settings import ModelUse

if TYPE_CHECKING:
    from ntkcli.engine.features.extract import GradientSettings

VERSION = 2
"""Of the features, in every spec: goes up when the engine gives other values for the same settings."""
SOME_LAYERS_VERSION = 3
"""The same, of gradients by an adapter in some blocks alone: where its updates are not merged into the weights (half
precision, quantised), version 2 left out those of the other blocks."""
FLOAT16_VERSION = 4
"""The same, of gradients computed in float16, which version 2 began so small that they lost digits."""
LOSSES_VERSION = 1
"""Of the rows' losses, in the specs of features that hold them: goes up when the same model gives other losses."""
PROJECTION_VERSION = 1
"""Of the projections, in every spec: goes up when the same seed gives other numbers."""
DEFAULT_POSITIONS = {Kind.NTK: Positions.COMPLETION, Kind.LOSS: Positions.COMPLETION, Kind.EMBED: Positions.ALL}
"""ntk (docs/method.md): features over the answer find skill and topic. embed: the paper's mean over all tokens."""


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """The options of `featurize` that decide what a feature is; `ModelUse` has the rest of what can change a value."""

    kind: Kind
    positions: Positions | None = None
    pooling: Pooling = Pooling.MEAN
    probe: str = DEFAULT.probe
    probes: int = 1
    layers: str = "all"
    projection: Projection = Projection.SJLT
    dim: int = 8192
    seed: int = 0
    rank: int = 16
    target_modules: str = "all-linear"
    adapter_seed: int = 0
    store_dtype: StoreDtype = StoreDtype.FLOAT16
    losses: bool = False

    @property
    def tokens_used(self) -> Positions:
        """The positions that were asked for, or the default of the kind."""
        return self.positions or DEFAULT_POSITIONS[self.kind]

    def check(self) -> None:
        """UsageError for a value that can't be used, or two that don't go together."""
        checked(Kind, self.kind, "--kind")
        if self.positions is not None:
            checked(Positions, self.positions, "--positions")
        checked(Pooling, self.pooling, "--pooling")
        PROBES.require(self.probe)
        checked(Projection, self.projection, "--projection")
        checked(StoreDtype, self.store_dtype, "--store-dtype")
        if self.probes < 1:
            raise UsageError(f"--probes {self.probes} is too few.", "Give 1 or more.")
        if self.kind == Kind.NTK and self.probes > 1 and not PROBES.get(self.probe).seeded:
            raise UsageError(
                f"--probes {self.probes}: {self.probe} is one direction in logit space, and {self.probes} of it say no "
                "more than one.",
                "Give --probe rademacher or --probe centred, or leave --probes out.",
            )
        if self.kind == Kind.LOSS and self.tokens_used != Positions.COMPLETION:
            raise UsageError(f"--positions {self.positions}: the loss is over the answer's tokens.", "Leave it out.")
        check_seed("--seed", self.seed)
        check_seed("--adapter-seed", self.adapter_seed)

    def spec(
        self, use: ModelUse, dtype: str, model: ModelIdentity, adapter: AdapterIdentity | None, adam: AdamState | None
    ) -> dict[str, Any]:
        """The spec without data and rows: what must match for two feature sets to be comparable."""
        spec: dict[str, Any] = {
            "kind": self.kind,
            "version": feature_version(
                adapted=adapter is not None,
                layers=self.layers if self.kind != Kind.EMBED else "all",
                half=dtype == Dtype.FLOAT16 and self.kind != Kind.EMBED,
            ),
            "model": model.spec,
            "adapter": adapter.spec if adapter else None,
            "encoder": use.encoder_spec(),
            "positions": self.tokens_used,
            "dtype": dtype,
            "store_dtype": self.store_dtype,
        }
        if self.losses:
            spec["losses"] = LOSSES_VERSION
        if self.kind == Kind.EMBED:
            return spec | {"pooling": self.pooling}
        if adapter is None:
            fresh = {"rank": self.rank, "target_modules": self.target_modules, "seed": self.adapter_seed}
            spec["adapter"] = {"fresh": fresh}
        if adam is not None:
            spec["adam"] = adam.spec
        if self.kind == Kind.NTK:
            spec |= {"probe": self.probe, "probes": self.probes}
            if PROBES.get(self.probe).seeded:
                spec["probe_seed"] = self.seed
            spec |= PROBES.spec(self.probe)
        spec |= {"layers": self.layers, "projection": {"name": self.projection, "version": PROJECTION_VERSION}}
        if self.projection != Projection.NONE:
            spec["projection"] |= {"dim": self.dim, "seed": self.seed}
        return spec

    def gradient(self, adam: AdamState | None) -> GradientSettings:
        """The part of the settings that the engine takes, for the kinds ntk and loss."""
        from ntkcli.engine.features.extract import GradientSettings

        return GradientSettings(
            kind=self.kind,
            positions=self.tokens_used,
            probe=self.probe,
            probes=self.probes,
            projection=self.projection,
            dim=self.dim,
            seed=self.seed,
            layers=self.layers,
            rank=self.rank,
            target_modules=self.target_modules,
            adapter_seed=self.adapter_seed,
            moments=adam.path if adam else None,
        )


def feature_version(*, adapted: bool, layers: str, half: bool) -> int:
    """The version of features with the adapter of a run (`adapted`) or a fresh one, in these blocks.

    `half`: gradients in float16.
    """
    if half:
        return FLOAT16_VERSION
    return SOME_LAYERS_VERSION if adapted and layers != "all" else VERSION
