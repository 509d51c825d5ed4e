"""What benchmarks and examples import of ours is there: they run seldom, and would show a name that moved last."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    str(path.relative_to(ROOT)) for at in ("benchmarks", "examples") for path in ROOT.glob(f"{at}/**/*.py")
)


def ours(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Module, name, and what the name is called in the script, of each import of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("ntkcli", "store"):
            for each in node.names:
                yield node.module or "", each.name, each.asname or each.name


def imported(module: str, name: str) -> Any:
    found = importlib.import_module(module)
    return getattr(found, name) if hasattr(found, name) else importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_script_imports_is_there(script: str) -> None:
    tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
    modules: dict[str, ModuleType] = {}
    for module, name, called in ours(tree):
        found = imported(module, name)
        if isinstance(found, ModuleType):
            modules[called] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{script}: {node.value.id}.{node.attr}"


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 30
