"""The layers point down only, and what must be fast imports nothing slow: checked in fresh processes."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets")
BELOW = {  # package → what it must not import
    "store": ("ntkcli", "typer", "rich", *HEAVY),
    "ntkcli/data": ("ntkcli.engine", "ntkcli.steps", "ntkcli.commands", "ntkcli.scoring", "typer", "rich"),
    "ntkcli/scoring": ("ntkcli.engine", "ntkcli.steps", "ntkcli.commands", "ntkcli.data", "typer", "rich", *HEAVY),
    "ntkcli/selection": ("ntkcli.engine", "ntkcli.steps", "ntkcli.commands", "ntkcli.data", "typer", "rich", *HEAVY),
    "ntkcli/engine": ("ntkcli.steps", "ntkcli.commands", "ntkcli.scoring", "typer", "rich"),
    "ntkcli/steps": ("ntkcli.commands", "ntkcli.console", "ntkcli.app", "typer", "rich"),
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("package", list(BELOW))
def test_arrows_point_down(package: str) -> None:
    paths = list((ROOT / package).rglob("*.py"))
    assert paths
    for path in paths:
        for name in imports_of(path):
            for banned in BELOW[package]:
                assert not f"{name}.".startswith(f"{banned}."), f"{path} imports {name}"


@pytest.mark.parametrize("arguments", [["--help"], ["featurize", "--help"], ["info", "STORE"]])
def test_fast_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    import store

    store.Store.open_or_create(tmp_path / "s", made_by="test")
    arguments = [str(tmp_path / "s") if word == "STORE" else word for word in arguments]
    code = (
        "import sys; from ntkcli.app import run; code = run(sys.argv[1:]);"
        f"sys.exit(code or int(any(name in sys.modules for name in {HEAVY!r})))"
    )
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_help_is_fast() -> None:
    """At most fifteen starts of a bare Python (0.5 s where that takes 0.035 s), of processor time: what else the
    machine does, and how fast it is, cancels out. The best of five, taken in turns."""
    bare, help_ = [], []
    for _ in range(5):
        bare.append(_processor_seconds("-c", "pass"))
        help_.append(_processor_seconds("-m", "ntkcli", "--help"))
    assert min(help_) < 15 * min(bare), f"ntksel --help takes {min(help_):.2f} s, a bare Python {min(bare):.2f} s"


def _processor_seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
