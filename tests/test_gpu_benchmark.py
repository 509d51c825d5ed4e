"""benchmarks/gpu.sh: passes shellcheck, and installs what is missing without touching what is there."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_shellcheck() -> None:
    run(str(Path(sys.executable).parent / "shellcheck"), "--shell=bash", "benchmarks/gpu.sh")


def test_what_is_installed_is_held_at_its_version(tmp_path: Path) -> None:
    held = tmp_path / "held.txt"
    assert run(sys.executable, "benchmarks/missing_packages.py", str(held)).split() == []
    lines = held.read_text().splitlines()
    assert f"torch=={version('torch')}" in lines
    assert len(lines) == len({line.partition("==")[0].lower() for line in lines})


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    """Under a python that sees nothing but the standard library."""
    code = "import sys; sys.path.insert(0, 'benchmarks'); import missing_packages; missing_packages.main()"
    printed = run(sys.executable, "-S", "-c", f"import sys; sys.argv = ['', {str(tmp_path / 'held')!r}]; {code}")
    assert {"zarr", "peft", "pytest", "google-crc32c"} <= set(printed.split())
    assert "zarr==3.1.6" in (tmp_path / "held").read_text().splitlines()
