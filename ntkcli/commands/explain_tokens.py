"""What `ntksel explain --tokens` shows: the row in colours, and its tokens by what they add to the score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ntkcli.console import Output

LONGEST = 20
"""Tokens in the table; `--json` has all of them."""


def show_tokens(store: Path, selection: str, row: str, *, device: str, data: Sequence[str], output: Output) -> None:
    """Call the step and show what it found."""
    from ntkcli.steps.selections.explain_tokens import explain_tokens

    found = explain_tokens(store, selection=selection, row=row, device=device, data=data, progress=output.progress)
    if output.as_json:
        output.result(found, line="")
        return
    total = sum(token.value for token in found.tokens)
    less = "" if not found.offset else f", and {found.offset:+.6g} that no token adds (the pool's mean)"
    output.say(
        f"{found.row_id} (row {found.row}) in {found.score_name}, by {found.method}: {found.score:.6g} = {total:.6g} "
        f"from its {len(found.tokens)} tokens{less}"
    )
    output.shaded([(token.text, token.value) for token in found.tokens])
    strongest = sorted(found.tokens, key=lambda token: -abs(token.value))[:LONGEST]
    more = len(found.tokens) - len(strongest)
    predicted = {token.position - 1: repr(token.text) for token in found.tokens if token.supervised}
    output.table(
        "tokens that carry the score; shares of the sum of all magnitudes" + (f"; {more} smaller ones" if more else ""),
        ["token", "position", "part", "predicts", "value", "share"],
        [
            [
                repr(token.text),
                str(token.position),
                "answer" if token.supervised else "prompt",
                predicted.get(token.position, ""),
                f"{token.value:+.4g}",
                f"{token.share:+.1%}",
            ]
            for token in strongest
        ],
    )
