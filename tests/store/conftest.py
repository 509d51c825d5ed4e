from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import Store
from tests.faults import failing_at


@pytest.fixture(autouse=True)
def _spared_syncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the tests' own process no sync is carried out, as it waits for the disk, and all come in one order."""
    monkeypatch.setattr("store.atomic._SYNCS_AT_ONCE", 1)
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
