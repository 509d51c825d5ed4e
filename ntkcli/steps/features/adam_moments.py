"""The optimiser's moments that a run kept beside its adapter, for `featurize --adam`: the file and its spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntkcli.digests import Watch
from ntkcli.errors import UsageError
from ntkcli.identity import AdapterIdentity
from ntkcli.steps.shared.seal import OPTIMIZER

VERSION = 1
"""Of Adam's directions, in every spec: goes up when the same moments give others."""


@dataclass(frozen=True, slots=True)
class AdamState:
    """The file of the moments, and what of it goes into the spec of features."""

    path: Path
    spec: dict[str, Any]
    watch: Watch = field(default_factory=Watch, compare=False, repr=False)


def adam_state(adapter: AdapterIdentity | None) -> AdamState:
    """The moments kept beside the adapter. UsageError if there is no adapter, or none were kept."""
    how = "Give --adapter RUN, a run of `ntksel finetune --keep-optimizer` (a finished run may be given it again)."
    if adapter is None:
        raise UsageError("--adam is given without --adapter: a fresh adapter has no optimiser.", how)
    path = adapter.folder / OPTIMIZER
    if not path.is_file():
        raise UsageError(f"--adam: the adapter {adapter.folder} has no {OPTIMIZER} next to it.", how)
    from safetensors import SafetensorError, safe_open

    watch = Watch()
    digest = watch.digest(path)
    try:
        with safe_open(str(path), framework="np") as file:
            rate = float(file.metadata()["mean_learning_rate"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"--adam: {path} can't be read ({error}).", how) from error
    return AdamState(path, {"version": VERSION, "moments": digest, "mean_learning_rate": rate}, watch)
