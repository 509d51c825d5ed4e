"""Several processes on one store: ranks of torchrun share the parts and make the bytes of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows
from tests.store.kit import tree


def test_two_ranks_of_torchrun_make_the_bytes_of_one(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(40))
    options = ["--data", str(data), "--name", "d", "--kind", "ntk", "--model", str(model_dir), "--part-rows", "4"]
    assert cli("featurize", tmp_path / "one", *options).code == 0
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ntkcli"]
    command = [sys.executable, *launch, "featurize", str(tmp_path / "two"), *options, "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    said = [json.loads(text) for text in ran.stdout.replace("}{", "}\n{").splitlines()]
    assert [each["computed"] for each in said] == [20, 20]
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert not list((tmp_path / "two/tmp").iterdir())
