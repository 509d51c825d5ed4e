"""The options of `score`, and which of them go with which methods. Reads nothing of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ntkcli.choices import Across, Dtype, GroupBy, checked
from ntkcli.errors import UsageError
from ntkcli.group import ALONE, Group
from ntkcli.seeds import check_seed
from ntkcli.steps.scores.registry import SCORES
from ntkcli.steps.scores.sorts import ModelScore, Score, TextScore, options_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """What to compare, and how.

    `feature` names the features on all sides (none: the method's default; less takes several; words and random take
    none), `rows` keeps to a selection of the pool. Several domains, or `group_by`, make groups: a score each, joined by
    `across`. `k` is for votes and rds (default: 0.5% of the pool, at least 10), `subspace` for gist (a share of energy
    below 1, else directions), `seed` for dsir and random. drop, which takes no domain, and `residual` read the losses
    that the features hold. `match_length` names a data set or a selection whose lengths in tokens random rows shall
    have, counted by `tokens_of` (features of the pool, or a model). `dtype` (auto: the features'), `device` and
    `batch_tokens` are for exact, which computes; `processes` too: those that hold its model together.
    """

    domain: Sequence[str] = ()
    group_by: GroupBy | None = None
    across: Across = Across.MAX
    feature: Sequence[str] = ()
    rows: str | None = None
    centre: bool = False
    k: int | None = None
    subspace: float | None = None
    whiten: float | None = None
    residual: bool = False
    seed: int = 0
    match_length: str | None = None
    tokens_of: str | None = None
    dtype: Dtype = Dtype.AUTO
    device: str = "auto"
    batch_tokens: int | None = None
    processes: Group = ALONE


DEFAULTS: Final = ScoreOptions()


def check_options(methods: Sequence[str], options: ScoreOptions) -> None:
    """UsageError for an option that no method uses, that contradicts another, or whose value can't be used."""
    entries = {method: SCORES.get(method) for method in methods}
    for method in methods:
        if methods.count(method) > 1:
            raise UsageError(f"--method {method} is given twice.", "Give each method once.")
    _check_meaning(entries, options)
    _check_sides(entries, options)
    _check_values(options)


def _check_meaning(entries: Mapping[str, Score], options: ScoreOptions) -> None:
    """UsageError for an option that applies to none of the methods."""
    computes = options.dtype != Dtype.AUTO or options.device != "auto" or options.batch_tokens is not None
    for option, word, given in (
        ("--centre", "centre", options.centre),
        ("--group-by", "group-by", options.group_by is not None),
        ("a second --domain", "domains", len(options.domain) > 1),
        ("a second --feature", "features", len(options.feature) > 1),
        ("-k", "k", options.k is not None),
        ("--subspace", "subspace", options.subspace is not None),
        ("--whiten", "whiten", options.whiten is not None),
        ("--residual", "residual", options.residual),
        ("--match-length", "match-length", options.match_length is not None),
        ("--dtype, --device or --batch-tokens", "computes", computes),
    ):
        if given and not any(word in options_of(entry) for entry in entries.values()):
            raise UsageError(
                f"{option} does not apply to --method {', '.join(entries)}.", f"It is for {', '.join(_having(word))}."
            )


def _having(word: str) -> list[str]:
    """The methods that have an option, with those of plug-ins; a plug-in that can't be loaded is left out."""
    found = []
    for name in SCORES.names():
        with suppress(UsageError):
            found += [name] if word in options_of(SCORES.get(name)) else []
    return found


def _check_sides(entries: Mapping[str, Score], options: ScoreOptions) -> None:
    """Methods that take one feature or one domain get one."""
    one = [method for method, entry in entries.items() if "features" not in options_of(entry)]
    if len(options.feature) > 1 and (others := [method for method in one if _reads_features(method)]):
        raise UsageError(f"--method {others[0]} takes one --feature.", "Give --method less a command of its own.")
    if len(options.domain) > 1 and (
        by_model := [method for method, entry in entries.items() if isinstance(entry, ModelScore)]
    ):
        raise UsageError(f"--method {by_model[0]} takes one --domain.", "Give this method a command of its own.")
    if set(entries) == {"drop"} and options.domain:
        raise UsageError(
            "--domain does not apply to --method drop: the domain is what the features' adapter was trained on.",
            "Leave --domain out.",
        )


def _check_values(options: ScoreOptions) -> None:
    subspace, whiten = options.subspace, options.whiten
    check_seed("--seed", options.seed)
    checked(Across, options.across, "--across")
    if subspace is not None and not (0 < subspace < 1 or (subspace >= 1 and subspace == subspace // 1)):
        raise UsageError(
            f"--subspace {subspace:g} is neither a share of energy nor a number of directions.",
            "Give a share between 0 and 1, or a whole number from 1.",
        )
    if whiten is not None and not 0 < whiten < float("inf"):
        raise UsageError(f"--whiten {whiten:g}: must be above 0.", "Give a damping such as 0.1.")
    if options.tokens_of is not None and options.match_length is None:
        raise UsageError("--tokens-of sets how lengths are counted, and nothing here uses any.", "Give --match-length.")


def _reads_features(method: str) -> bool:
    return method != "random" and not isinstance(SCORES.get(method), TextScore)
