"""A bucket of a real S3 server on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.steps.remote.kit import s3


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Any call of the server's client by its name; the bucket `bucket` is there and empty."""
    with s3(monkeypatch) as client:
        client("create_bucket")(Bucket="bucket")
        yield client
