"""The layers point down only, and what must be fast imports nothing slow: checked in fresh processes."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "ray", "fsspec")


def test_the_contracts_hold() -> None:
    """Layers and circles, as [tool.importlinter] in pyproject.toml has them."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["featurize", "--help"], ["score", "--help"], ["info", "STORE"]])
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
