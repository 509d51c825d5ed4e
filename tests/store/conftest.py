from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import Store
from tests.faults import failing_at


@pytest.fixture(autouse=True)
def _spared_syncs() -> Iterator[None]:
    """No sync is carried out in the tests' own process: there are thousands, and they wait for the disk."""
    with failing_at(None):
        yield


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory, where the machine has one: these tests make some ten thousand small files."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open_or_create(tmp_path / "med", made_by="ntksel test")
