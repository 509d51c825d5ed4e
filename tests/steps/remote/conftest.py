"""A store to push, places to push it to, and a bucket of a real S3 server on loopback."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.steps.remote.kit import make_store, s3


@pytest.fixture
def med(tmp_path: Path) -> Path:
    return make_store(tmp_path / "med").path


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/there/med" if request.param == "file" else f"memory://{uuid.uuid4().hex}/med"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Any call of the server's client by its name; the bucket `bucket` is there and empty."""
    with s3(monkeypatch) as client:
        client("create_bucket")(Bucket="bucket")
        yield client
