"""Which options go with which methods of `score`. Reads nothing of the store."""

from __future__ import annotations

from collections.abc import Sequence

from ntkcli.choices import Across, GroupBy, checked
from ntkcli.errors import UsageError
from ntkcli.steps.scores.registry import SCORES
from ntkcli.steps.scores.sorts import ModelScore, TextScore, options_of


def check_options(
    methods: Sequence[str],
    *,
    centre: bool,
    k: int | None,
    subspace: float | None,
    whiten: float | None,
    residual: bool,
    match_length: str | None,
    tokens_of: str | None,
    across: Across,
    group_by: GroupBy | None,
    domains: int,
    features: int,
    computes: bool,
) -> None:
    """UsageError for an option that no method has a use for, or that contradicts another."""
    entries = {method: SCORES.get(method) for method in methods}
    for method in methods:
        if methods.count(method) > 1:
            raise UsageError(f"--method {method} is given twice.", "Give each method once.")
    checked(Across, across, "--across")
    for option, word, given in (
        ("--centre", "centre", centre),
        ("--group-by", "group-by", group_by is not None),
        ("a second --domain", "domains", domains > 1),
        ("a second --feature", "features", features > 1),
        ("-k", "k", k is not None),
        ("--subspace", "subspace", subspace is not None),
        ("--whiten", "whiten", whiten is not None),
        ("--residual", "residual", residual),
        ("--match-length", "match-length", match_length is not None),
        ("--dtype, --device or --batch-tokens", "computes", computes),
    ):
        if given and not any(word in options_of(entry) for entry in entries.values()):
            known = [name for name, each in SCORES.builtin.items() if word in options_of(each)]
            raise UsageError(
                f"{option} means nothing to --method {', '.join(methods)}.", f"It is for {', '.join(known)}."
            )
    one = [method for method, entry in entries.items() if "features" not in options_of(entry)]
    if features > 1 and (others := [method for method in one if _reads_features(method)]):
        raise UsageError(f"--method {others[0]} takes one --feature.", "Score by less in a command of its own.")
    if domains > 1 and (others := [method for method in methods if isinstance(entries[method], ModelScore)]):
        raise UsageError(f"--method {others[0]} takes one --domain.", "Score by it in a command of its own.")
    if set(methods) == {"drop"} and domains:
        raise UsageError(
            "--domain means nothing to --method drop: the domain is what the features' adapter was trained on.",
            "Leave --domain out.",
        )
    if subspace is not None and not (0 < subspace < 1 or (subspace >= 1 and subspace == subspace // 1)):
        raise UsageError(
            f"--subspace {subspace:g} is neither a share of energy nor a number of directions.",
            "Give a share between 0 and 1, or a whole number from 1.",
        )
    if whiten is not None and not 0 < whiten < float("inf"):
        raise UsageError(f"--whiten {whiten:g} is not above 0.", "Give a damping such as 0.1.")
    if tokens_of is not None and match_length is None:
        raise UsageError("--tokens-of says how lengths are counted, and nothing here has one.", "Give --match-length.")


def _reads_features(method: str) -> bool:
    return method != "random" and not isinstance(SCORES.get(method), TextScore)
