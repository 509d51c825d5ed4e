"""A call from Python as the words of the command line: what is shared with other processes is a command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from typing import Any

import typer

from ntkcli.commands import eval as evaluation
from ntkcli.commands import featurize, score, validate


def as_words(verb: str, given: Mapping[str, Any]) -> list[str]:
    """The words behind `ntksel` for arguments of `ntkcli.api`; what is as the command has it by itself is left out."""
    words = [verb]
    options = []
    for parameter in _commands()[verb].params:
        name = parameter.opts[0].lstrip("-").replace("-", "_")
        value = given.get(name)
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif value is not None and _plain(value) != _plain(parameter.default):
            options += list(_option(parameter, value))
    return [*words, *options]


def _option(parameter: Any, value: Any) -> Iterator[str]:
    flag = parameter.opts[0]
    if parameter.is_flag:
        yield flag if value else parameter.secondary_opts[0]
        return
    for each in value if parameter.multiple and not isinstance(value, str) else [value]:
        yield from (flag, str(_plain(each)))


def _plain(value: Any) -> Any:
    """As the command line writes it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_plain(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ",".join(str(_plain(each)) for each in value)
    return value


@cache
def _commands() -> dict[str, Any]:
    app = typer.Typer(add_completion=False)
    for module in (featurize, score, evaluation, validate):
        module.add_to(app)
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # a group, as it has commands
