"""The house rules that no linter checks: the length of functions, and no code that only tests call."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import ntkcli
import store

PACKAGE, STORE = Path(ntkcli.__file__).parent, Path(store.__file__).parent
LINES = 60
"""Of a function in steps/ and engine/: what one can read without scrolling."""
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def trees(*folders: Path) -> dict[Path, ast.Module]:
    return {
        path: ast.parse(path.read_text(encoding="utf-8")) for folder in folders for path in sorted(folder.rglob("*.py"))
    }


def test_functions_of_the_steps_and_the_engine_are_short() -> None:
    long = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
        for path, tree in trees(PACKAGE / "steps", PACKAGE / "engine").items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= LINES
    ]
    assert not long


def uses(every: dict[Path, ast.Module]) -> Counter[str]:
    """How often each name is read, as a variable, an attribute, an argument or in an import with another name."""
    found: Counter[str] = Counter()
    for tree in every.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                found[node.id] += 1
            elif isinstance(node, ast.Attribute):
                found[node.attr] += 1
            elif isinstance(node, ast.keyword) and node.arg:
                found[node.arg] += 1
            elif isinstance(node, ast.ImportFrom):
                found.update(each.name for each in node.names if each.asname)
    return found


def defined(tree: ast.Module) -> list[tuple[str, int]]:
    """Names of functions, classes and constants, but those that a framework calls: overrides, and what it decorates."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            overrides = isinstance(node, ast.ClassDef) and bool(node.bases)
            for child in node.body:
                if isinstance(child, Definition) and not overrides:
                    registered = any(isinstance(each, ast.Call) for each in child.decorator_list)
                    found += [(child.name, child.lineno)] if isinstance(child, ast.ClassDef) or not registered else []
        if isinstance(node, ast.Module):
            for child in node.body:
                targets = child.targets if isinstance(child, ast.Assign) else []
                targets = [child.target] if isinstance(child, ast.AnnAssign) else targets
                found += [(each.id, child.lineno) for each in targets if isinstance(each, ast.Name)]
    return [(name, line) for name, line in found if not name.startswith("__")]


def test_nothing_is_there_for_tests_alone() -> None:
    every = trees(PACKAGE, STORE)
    used = uses(every)
    own = {path: tree for path, tree in every.items() if PACKAGE / "api" not in path.parents}  # that is for users
    unused = [f"{path}:{line} {name}" for path, tree in own.items() for name, line in defined(tree) if not used[name]]
    assert not unused
