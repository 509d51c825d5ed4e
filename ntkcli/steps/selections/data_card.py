"""README.md of a selection on the Hub: what the rows are and how they were chosen. Names of any make stay text."""

from __future__ import annotations

import json
from collections.abc import Mapping

import store
from ntkcli import __version__
from ntkcli.data.hub import is_hub_id
from ntkcli.steps.shared.card_text import code_span, table_cell

SOURCES_SHOWN = 20


def data_card(
    selection: store.Artefact, *, score: store.Artefact, dataset: store.Artefact, sources: Mapping[str, int], file: str
) -> str:
    """The card, in the Hub's form: a YAML head, then Markdown. The same for the same selection."""
    name, origin = selection.name.partition("/")[2], str(dataset.attrs["source"])
    pool = code_span(origin if is_hub_id(origin) else dataset.name.partition("/")[2])
    method = str(score.spec.get("method", "scores of its own"))
    rows = [f"| {table_cell(label or 'no label')} | {n:,} |" for label, n in list(sources.items())[:SOURCES_SHOWN]]
    if len(sources) > SOURCES_SHOWN:
        rows.append(f"| {len(sources) - SOURCES_SHOWN} more | {sum(list(sources.values())[SOURCES_SHOWN:]):,} |")
    lines = [
        "---",
        'tags: ["ntksel", "data-selection"]',
        "configs:",
        "- config_name: default",
        f'  data_files: [{{"split": "train", "path": {json.dumps(file)}}}]',
        "---",
        "",
        f"# {name}",
        "",
        f"{selection.n:,} rows out of the {dataset.n:,} of {pool}, chosen by ntksel {__version__}.",
        f"Score: {code_span(score.name.partition('/')[2])}, method {code_span(method)}. Best first: `ntksel_rank`",
        "counts from 1, `ntksel_score` is the score. The rows keep the licence of the data that they are from.",
        "",
        "| source | rows |",
        "|---|---:|",
        *rows,
        "",
        "## Spec",
        "",
        f"All that can change the choice, with digests of the score and the data ({dataset.spec['digest']}):",
        "",
        "```json",
        json.dumps(selection.spec, indent=2, sort_keys=True),
        "```",
        "",
    ]
    return "\n".join(lines)
