"""A small store with everything that is pushed, an object store on loopback, and a place that breaks off."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from ntkcli.steps.remote.place import Place
from ntkcli.steps.shared import seal

N, PART_ROWS = 20, 8
IGNORED = ("tmp", "exports", "reports")


def make_store(path: Path, *, seed: int = 0, features_done: int = 3) -> store.Store:
    """A data set, features of `features_done` of 3 parts, a score, a selection, a finished run and one that is not."""
    made = store.Store.open_or_create(path, made_by="ntksel test")
    draw = np.random.default_rng(seed)
    ids = np.array([f"row-{i}" for i in range(N)], dtype=object)
    source, status = np.zeros(N, np.int32), np.zeros(N, np.uint8)
    dataset = _fill(made, "datasets/pool", {}, {"row_id": ids, "source": source, "status": status}, digest="d")
    made.get("datasets/pool").note(sources=["a"])
    values = {"embedding": draw.normal(size=(N, 4)).astype(np.float32), "norm": np.ones(N, np.float32)}
    features = _fill(made, "features/pool/embed", dataset, values, done=features_done, kind="embed", seed=seed)
    score = draw.normal(size=N).astype(np.float32)
    scored = _fill(made, "scores/near", features, {"score": score, "similarity": score}, method="cosine")
    made.get("scores/near").note(data="pool")
    best = np.argsort(-score)[:5]
    chosen = {"row": best.astype(np.int64), "score": score[best]}
    _fill(made, "selections/picked", scored, chosen, n=5, method="top")
    made.get("selections/picked").note(data="pool")
    for run, done in (("warm", 1), ("broken", 0)):
        _fill(made, f"runs/{run}", {}, {"loss": np.ones(4, np.float32)}, n=4, done=done, run=run)
        folder = made.adapter_path(run)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "state").write_bytes(b"of the trainer")
        (folder / ".lock").touch()
        for name in seal.FILES:
            (folder / name).write_bytes(f"{name} of {run}".encode())
        if done:
            spec = made.get(f"runs/{run}")
            record = {"made_by": "t", "model": {}, "run": spec.fingerprint, "spec": {}, "files": seal.digests(folder)}
            (folder / "ntksel.json").write_bytes(seal.sealing(record))
    (path / "data").mkdir()
    (path / "data" / "stdin-1.jsonl").write_text("{}\n")
    (path / "reports").mkdir()
    (path / "reports" / "report.html").write_text("for people")
    return made


def _fill(
    made: store.Store,
    name: str,
    parents: dict[str, str],
    arrays: dict[str, Any],
    *,
    n: int = N,
    done: int | None = None,
    **spec: Any,
) -> dict[str, str]:
    specs = {
        key: store.ArraySpec("string" if values.dtype == object else values.dtype, values.shape[1:])
        for key, values in arrays.items()
    }
    artefact = made.create(
        name, kind=store.layout.kind_of(name), spec=spec, parents=parents, n=n, part_rows=PART_ROWS, arrays=specs
    )
    for i in artefact.pending()[:done]:
        start, stop = artefact.part_bounds(i)
        artefact.write_part(i, {key: values[start:stop] for key, values in arrays.items()})
    return {name: artefact.fingerprint}


def tree(path: Path) -> dict[str, bytes]:
    """All files of a store that a push copies."""
    found = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        skipped = name.split("/")[0] in IGNORED or any(word in name for word in ("broken", "checkpoints", ".lock"))
        skipped = skipped or name.endswith("/part/lock")
        if file.is_file() and not skipped:
            found[name] = file.read_bytes()
    return found


class Breaks:
    """Lets so many files through to a place and then fails as a killed process does; counts what is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int | None = None) -> None:
        self.written: list[str] = []
        self.lock = threading.Lock()
        write = Place.write

        def counted(place: Place, path: str, data: bytes) -> None:
            with self.lock:
                if after is not None and len(self.written) >= after:
                    raise KeyboardInterrupt
                self.written.append(path)
            write(place, path, data)

        monkeypatch.setattr(Place, "write", counted)


@contextmanager
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """An S3 server on loopback: gives a client's method by its name. The library finds it by the environment."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        use_s3(monkeypatch, f"http://{host}:{port}")
        client = boto3.client("s3", region_name="us-east-1")
        urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()  # it is the process's own
        yield lambda name: getattr(client, name)
    finally:
        server.stop()


def use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """The library finds this server, and credentials in the environment alone."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIATESTACCESS",
        "AWS_SECRET_ACCESS_KEY": "test-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
