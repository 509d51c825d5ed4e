"""Quotas for source labels, as given on the command line, as row counts; and whether they can be met at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ntkcli.errors import UsageError
from ntkcli.selection.chooser import Ints


def parse_quotas(texts: Sequence[str], *, labels: Sequence[str], n: int | None, option: str) -> dict[int, int]:
    """Rows of each source code: `100` or `20%` or `0.2` for every source, `LABEL=100` for one; later ones win.

    Shares are of `n`, rounded down for a maximum and up for a minimum.

    Raises:
        UsageError: no number, no such label, or a share without a fixed `n`.
    """
    quotas: dict[int, int] = {}
    for text in texts:
        label, equals, value = text.rpartition("=")
        if equals and label not in labels:
            raise UsageError(
                f"{option} {text}: the pool has no source {label!r}.", f"It has: {', '.join(map(repr, labels[:10]))}."
            )
        rows = _rows(value, n=n, option=option, up=option.startswith("--min"))
        quotas |= {code: rows for code, known in enumerate(labels) if not equals or known == label}
    return quotas


def check_quotas(
    most: dict[int, int], least: dict[int, int], *, labels: Sequence[str], available: Ints, n: int | None
) -> None:
    """Refuse quotas that nothing can meet; `available` (codes,) counts the rows of each source that may be chosen.

    Raises:
        UsageError: naming the source or the sum, and by how much it fails.
    """
    if least and n is None:
        raise UsageError("--min-per-source needs a fixed number of rows.", "Give -n N.")
    for code, rows in least.items():
        if rows > most.get(code, rows):
            raise UsageError(
                f"--min-per-source asks for {rows} rows of {labels[code]!r}, --max-per-source allows {most[code]}.",
                "Make the minimum no larger than the maximum.",
            )
        if rows > available[code]:
            raise UsageError(
                f"--min-per-source asks for {rows} rows of {labels[code]!r}, which has {available[code]}: "
                f"{rows - int(available[code])} too few.",
                "Lower the minimum, or loosen the other constraints.",
            )
    if n is not None and sum(least.values()) > n:
        raise UsageError(
            f"--min-per-source adds up to {sum(least.values())} rows, -n is {n}.",
            "Lower the minimum or give more rows.",
        )
    room = sum(min(int(rows), most.get(code, int(rows))) for code, rows in enumerate(available))
    if n is not None and room < n:
        raise UsageError(
            f"-n {n}: --max-per-source leaves {room} of {int(available.sum())} rows, {n - room} too few.",
            f"Raise it, or give -n {room} or less.",
        )


def check_budget(least: dict[int, int], *, labels: Sequence[str], source: Ints, tokens: Ints, budget: int) -> None:
    """Refuse a token budget that the shortest rows of each source's minimum don't fit; `source`, `tokens` (n,)."""
    need = sum(
        int(np.sort(np.minimum(tokens[source == code], budget + 1))[:rows].sum()) for code, rows in least.items()
    )
    if need > budget:
        names = ", ".join(repr(labels[code]) for code in list(least)[:5])
        raise UsageError(
            f"--min-per-source: the shortest rows of {names} that meet it have more than --token-budget's {budget} "
            "tokens.",
            "Raise the budget, or lower the minimum.",
        )


def _rows(value: str, *, n: int | None, option: str, up: bool) -> int:
    try:
        number = float(value.removesuffix("%"))
    except ValueError:
        number = -1.0
    share = number / 100 if value.endswith("%") else number
    if not np.isfinite(number) or number < 0 or (value.endswith("%") and share > 1):
        raise UsageError(
            f"{option} {value} is not a valid number of rows.", "Give a count as 100, or a share as 20% or 0.2."
        )
    if not value.endswith("%") and "." not in value:
        return int(number)
    if share > 1:
        raise UsageError(f"{option} {value} is more than all rows.", "Give a share from 0 to 1, or a whole number.")
    if n is None:
        raise UsageError(f"{option} {value} is a share of -n, which is not fixed.", "Give -n N, or a count.")
    exact = round(share * n, 6)  # 0.29 of 100 is 29, whatever binary fractions make of it
    return int(np.ceil(exact)) if up else int(exact)
