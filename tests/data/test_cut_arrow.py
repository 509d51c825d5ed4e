"""Arrow files that are cut: an error with a line, never the end of the process by a signal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ntkcli.data import DataFile
from ntkcli.errors import DataError

ROOT = Path(__file__).parents[2]


def write_arrow(path: Path, *, stream: bool) -> Path:
    """Some hundred batches of rows."""
    import pyarrow as pa

    batch = pa.record_batch({"prompt": ["why?" * 20] * 256, "completion": ["so" * 20] * 256})
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(str(path), batch.schema) as writer:
        for _ in range(100):
            writer.write_batch(batch)
    return path


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_cut_before(tmp_path: Path, stream: bool, share: float) -> None:
    path = write_arrow(tmp_path / "d.arrow", stream=stream)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(DataError, match=r"d\.arrow is not a complete arrow file .*Make or copy the file again"):
        list(DataFile(path).rows())


@pytest.mark.parametrize("stream", [True, False])
def test_cut_while_it_is_read(tmp_path: Path, stream: bool) -> None:
    """In a process of its own, which a signal would end."""
    path = write_arrow(tmp_path / "d.arrow", stream=stream)
    code = (
        "import os, sys; from ntkcli.data import DataFile; from ntkcli.errors import DataError\n"
        "path = sys.argv[1]; rows = DataFile(path).rows(); next(rows); os.truncate(path, 40000)\n"
        "try:\n    list(rows)\nexcept DataError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, (ran.returncode, ran.stderr)
    assert "d.arrow is not a complete arrow file" in ran.stdout
