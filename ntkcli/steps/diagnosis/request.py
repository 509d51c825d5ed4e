"""The options of `ntksel diagnose`: which of them each diagnosis takes, and what it can't do without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import store
from ntkcli.choices import Dtype, OnError
from ntkcli.errors import UsageError
from ntkcli.seeds import check_seed
from ntkcli.steps.shared.stores import is_store, open_store

_SAMPLED: Final = ("pool", "domain", "rows", "domain_rows", "seed", "columns", "split", "on_error")
_MODEL: Final = ("model", "max_length", "dtype", "device", "batch_tokens", "thinking", "trust_remote_code")
USES: Final[dict[str, frozenset[str]]] = {
    "length": frozenset({"score", "tokens_of"}),
    "supply": frozenset({*_SAMPLED, *_MODEL, "adapter", "feature", "n", "near"}),
    "kernel": frozenset({*_SAMPLED, *_MODEL, "adapter", "layers"} - {"batch_tokens"}),
    "sketch": frozenset({*_SAMPLED, *_MODEL, "adapter", "layers", "probe", "dims"}),
    "stability": frozenset({*_SAMPLED, *_MODEL, "run", "probe", "dim"}),
    "regression": frozenset(
        {*_MODEL, "domain", "adapter", "run", "eval_name", "probe", "dim", "columns", "split", "on_error"}
    ),
}
"""Diagnosis → the options that it takes, in the order in which `all` runs them."""
NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "length": (),
    "supply": ("pool", "domain"),
    "kernel": ("pool", "domain", "model"),
    "sketch": ("pool", "domain", "model"),
    "stability": ("pool", "domain", "run"),
    "regression": ("domain", "run", "eval_name"),
}
CHECKS: Final = (*USES, "all")
_FLAGS: Final = {"eval_name": "--eval", "n": "-n"}


@dataclass(frozen=True, slots=True)
class Request:
    """The options, None where they were not given."""

    store_path: str | Path
    score: tuple[str, ...] = ()
    tokens_of: str | None = None
    pool: str | None = None
    domain: str | None = None
    model: str | None = None
    adapter: str | None = None
    feature: str | None = None
    run: tuple[str, ...] = ()
    eval_name: str | None = None
    rows: int | None = None
    domain_rows: int | None = None
    n: int | None = None
    near: float = 5.0
    seed: int = 0
    probe: str = "centred"
    layers: str | None = None
    dim: int = 8192
    dims: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384)
    max_length: int | None = None
    dtype: Dtype = Dtype.AUTO
    device: str = "auto"
    batch_tokens: int | None = None
    columns: Mapping[str, str] | None = None
    split: str | None = None
    thinking: bool | None = None
    trust_remote_code: bool = False
    on_error: OnError = OnError.FAIL

    def stored(self) -> store.Store | None:
        """The store, if there is one yet."""
        return open_store(self.store_path) if is_store(self.store_path) else None


def flag(name: str) -> str:
    """The option of a field."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def check_request(check: str, given: Mapping[str, Any]) -> None:
    """UsageError for an option that the diagnosis does not take, or one that it lacks, or a value out of range.

    `given` holds what was given, without defaults.
    """
    if check not in CHECKS:
        raise UsageError(f"diagnose {check} is not known.", f"Give one of: {', '.join(CHECKS)}.")
    if check != "all":
        for name in given:
            if name not in USES[check]:
                takers = [one for one, uses in USES.items() if name in uses]
                raise UsageError(f"{flag(name)} does not apply to diagnose {check}.", f"It is for {', '.join(takers)}.")
        if lacking := missing(check, given):
            raise UsageError(f"{' and '.join(lacking)} is missing: diagnose {check} needs it.", "Give it.")
    check_seed("--seed", given.get("seed", 0))
    if not 0 <= given.get("near", 5.0) < 100:
        raise UsageError(f"--near {given['near']:g} is not a valid percentile.", "Give 0 or more and less than 100.")
    for name in ("rows", "domain_rows", "n", "dim"):
        if given.get(name) is not None and given[name] < 1:
            raise UsageError(f"{flag(name)} {given[name]} is too few.", "Give 1 or more.")


def missing(check: str, given: Mapping[str, Any]) -> list[str]:
    """The options that a diagnosis can't do without and that were not given."""
    lacking = [flag(name) for name in NEEDS[check] if not given.get(name)]
    if check == "supply" and not given.get("model") and not given.get("feature"):
        lacking.append("--model or --feature")
    return lacking
