"""Write docs/api.md from `ntkcli.api`: `python tools/api_reference.py > docs/api.md`."""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields, is_dataclass
from enum import Enum, StrEnum
from typing import Any

from ntkcli import api

HEAD = """# Python interface

`ntkcli.api` has functions with the names, options and defaults of the commands. An option that makes another thing of
a command is a function of its own: `scores` (`score --method METHOD=NAME`, repeated), `combine`, `explain_tokens` and
`find_learning_rate`. Not here are `info`, `report`, `rm`, `run`, `tasks`, `demo` and `score --compare`.

A result has the fields that `--json` prints, `to_dict()` for the same as JSON values, and methods that read arrays of
the store as numpy. Choices are enums whose members equal the words of the command line, so a type checker finds a
misspelt one; names of scores, selectors and probes are literals, and `PluginName("...")` is one that a plug-in brings
([Plug-ins](extend.md)).

```python
from ntkcli.api import Kind, featurize, score, select

for name in ("pool", "domain"):
    featurize("store", data=f"{name}.jsonl", name=name, kind=Kind.NTK, model="./model")
scored = score("store", pool="pool", domain="domain", method="cosine", centre=True, name="near")
chosen = select("store", score="near", n=100, name="picked")
print(scored.values()[chosen.indices()])
```

`examples/api.py` is a whole pipeline, and `examples/selection.ipynb` a notebook. This page is made from the code by
`tools/api_reference.py`.
"""


def main() -> None:
    """Write the page to stdout."""
    own = {name: getattr(api, name) for name in api.__all__}
    parts = [HEAD, "## Functions"]
    parts += [_function(name, each) for name, each in own.items() if inspect.isfunction(each)]
    parts += ["## The store", _class("Store", api.Store), "## Results", _class("Result", api.Result)]
    results = [
        (n, e) for n, e in own.items() if inspect.isclass(e) and issubclass(e, api.Result) and e is not api.Result
    ]
    parts += [_class(name, each) for name, each in results]
    enums = [(n, e) for n, e in own.items() if inspect.isclass(e) and issubclass(e, StrEnum)]
    parts += ["## Choices", "| type | values | what it is |\n|---|---|---|\n" + "\n".join(_row(n, e) for n, e in enums)]
    parts += ["## Names", _names()]
    parts += ["## Errors", "\n".join(f"- `{n}`: {_first(e)}" for n, e in own.items() if _is_error(e))]
    sys.stdout.write("\n\n".join(part.strip() for part in parts) + "\n")


def _function(name: str, function: Any) -> str:
    return f"### {name}\n\n```python\n{_signature(name, function)}\n```\n\n{inspect.getdoc(function)}"


def _signature(name: str, function: Any) -> str:
    found = inspect.signature(function)
    lines = [f"{name}("]
    keyword = False
    for each in found.parameters.values():
        if each.name == "self":
            continue
        if each.kind is each.KEYWORD_ONLY and not keyword:
            lines, keyword = [*lines, "    *,"], True
        default = "" if each.default is each.empty else f" = {_shown(each.default)}"
        lines.append(f"    {each.name}: {each.annotation}{default},")
    return (
        "\n".join([*lines, f") -> {found.return_annotation}"])
        if len(lines) > 1
        else f"{name}() -> {found.return_annotation}"
    )


def _shown(value: Any) -> str:
    return f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else repr(value)


def _class(name: str, kind: type) -> str:
    text = f"### {name}\n\n{inspect.getdoc(kind)}"
    if is_dataclass(kind):
        text += "\n\n" + "\n".join(f"- `{each.name}`: `{each.type}`" for each in fields(kind))
    for key, member in vars(kind).items():
        if key.startswith("_") or key in getattr(kind, "__slots__", ()) or isinstance(member, classmethod):
            continue
        if isinstance(member, property):
            text += f"\n\n**`{key}`**: {_first(member)}"
        elif inspect.isfunction(member):
            arguments = ", ".join(str(each) for each in list(inspect.signature(member).parameters.values())[1:])
            text += f"\n\n**`{key}({arguments})`**: {_flat(inspect.getdoc(member) or '')}"
    return text


def _row(name: str, kind: type[StrEnum]) -> str:
    return f"| `{name}` | {', '.join(f'`{each}`' for each in kind)} | {_first(kind)} |"


def _names() -> str:
    rows = []
    for name in ("ScoreName", "SelectorName", "ProbeName", "ArmName", "CheckName"):
        literal = next(
            (e for e in getattr(getattr(api, name), "__args__", ()) if hasattr(e, "__args__")), getattr(api, name)
        )
        rows.append(f"| `{name}` | {', '.join(f'`{each}`' for each in literal.__args__)} |")
    return "| type | built in |\n|---|---|\n" + "\n".join(rows)


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def _first(value: Any) -> str:
    return (inspect.getdoc(value) or "").split("\n", 1)[0]


def _flat(text: str) -> str:
    return text.replace("\n\nRaises:\n    ", " Raises ").replace("\n    ", "; ").replace("\n", " ")


if __name__ == "__main__":
    main()
