"""README.md beside an adapter: what it was trained on, how, with which result. Names of any make stay text."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntkcli import __version__
from ntkcli.steps.shared.card_text import code_span, one_line, table_cell


@dataclass(frozen=True, slots=True)
class CardSet:
    """A training set: as it was named, its rows (with repeats), its weight, its digest."""

    label: str
    rows: int
    times: float
    digest: str


def model_card(
    name: str, *, base_model: str, spec: Mapping[str, Any], sets: Sequence[CardSet], metrics: Mapping[str, str],
    command: Sequence[str],
) -> str:  # fmt: skip
    """The card, in the Hub's form: a YAML head, then Markdown. The same for the same run, whenever it is written."""
    shape = f"rank {spec['rank']}, alpha {spec['alpha']:g}, on {code_span(spec['target_modules'])}"
    rows = [f"| {table_cell(one.label)} | {one.rows:,} | {one.times:g} | `{one.digest}` |" for one in sets]
    results = [f"| {table_cell(key)} | {table_cell(value)} |" for key, value in metrics.items()]
    lines = [
        *card_head(base_model=base_model, library_name="peft", tags=["lora", "ntksel"]),
        "",
        f"# {name}",
        "",
        f"A LoRA adapter ({shape}) of {code_span(base_model)}, made by ntksel {__version__}.",
        "",
        "## Data",
        "",
        "| set | rows trained on | times an epoch | digest |",
        "|---|---:|---:|---|",
        *rows,
        "",
        "## Result",
        "",
        "| | |",
        "|---|---:|",
        *results,
        "",
        "Losses are means of the cross-entropy over the supervised tokens.",
        "",
        "## Command",
        "",
        f"    {one_line(shlex.join(command))}",
        "",
        "## Spec",
        "",
        "All that can change the adapter, with digests of model, tokenizer and data:",
        "",
        "```json",
        json.dumps(spec, indent=2, sort_keys=True),
        "```",
        "",
    ]
    return "\n".join(lines)


def card_head(*, base_model: str, library_name: str, tags: list[str]) -> list[str]:
    """The lines of the YAML head that the Hub reads."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(base_model=base_model, library_name=library_name, pipeline_tag="text-generation", tags=tags)
    return ["---", *data.to_yaml().splitlines(), "---"]


def command_words(verb: str, given: Mapping[str, Any], signature: inspect.Signature) -> list[str]:
    """The command line of a step called with `given`, its defaults left out."""
    words = ["ntksel", verb, str(given["store_path"])]
    for name, parameter in signature.parameters.items():
        value = given[name]
        if name in ("store_path", "group", "processes", "progress") or value == parameter.default:
            continue
        option = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [option, *_word(name, one)]
    return words


def _word(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [",".join(f"{known}={own}" for known, own in value.items())]
    if name == "thinking":
        return ["on" if value else "off"]
    return [] if value is True else [str(value)]
