"""README.md of a merged model: what it was made of and how, in the Hub's form. Names of any make stay text."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ntkcli import __version__
from ntkcli.data.hub import is_hub_id
from ntkcli.steps.shared.card_text import code_span, one_line, table_cell


def merge_card(
    name: str, *, base_model: str, run: str, train: Sequence[str], made: Mapping[str, Any], spec: Mapping[str, Any],
    command: Sequence[str],
) -> str:  # fmt: skip
    """The card. `train` are the references that the run was trained on, `made` digests and formats by their names."""
    rows = [f"| {table_cell(key)} | {table_cell(str(value))} |" for key, value in made.items()]
    lines = [
        "---",
        *([f"base_model: {json.dumps(base_model)}"] if is_hub_id(base_model) else []),
        "library_name: transformers",
        "pipeline_tag: text-generation",
        'tags: ["ntksel", "merge"]',
        "---",
        "",
        f"# {name}",
        "",
        f"{code_span(base_model)} with the LoRA adapter of the run {code_span(run)}.",
        f"Merged in float32 and rounded once, by ntksel {__version__}.",
        "",
        f"Trained on: {', '.join(map(code_span, train)) or 'not recorded'}.",
        "",
        "| | |",
        "|---|---|",
        *rows,
        "",
        "## Command",
        "",
        f"    {one_line(shlex.join(command))}",
        "",
        "## Spec of the run",
        "",
        "```json",
        json.dumps(spec, indent=2, sort_keys=True),
        "```",
        "",
    ]
    return "\n".join(lines)
