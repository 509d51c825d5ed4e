"""examples/slurm: the scripts pass shellcheck, and run as they are with SLURM's variables set they make one store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.shared.stores import open_store
from tests.conftest import Writer, prompt_rows

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples" / "slurm").glob("*.sbatch"))
SHARDS = 2
ROWS = 300

SRUN = """#!/usr/bin/env bash
# What srun does for these scripts: one process a rank, and the worst exit code.
[[ $1 == --* ]] && shift
for rank in 0 1; do SLURM_PROCID=$rank SLURM_STEP_NUM_TASKS=2 "$@" & done
code=0
for job in $(jobs -p); do wait "$job" || code=$?; done
exit "$code"
"""


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has this checkout's ntksel, and stand-ins for srun and scontrol."""
    folder = tmp_path / "bin"
    folder.mkdir()
    ntksel = f'#!/usr/bin/env bash\nexec "{sys.executable}" -m ntkcli "$@"\n'
    scontrol = f'#!/usr/bin/env bash\necho "$@" >> "{tmp_path / "scontrol"}"\n'
    for name, text in {"ntksel": ntksel, "srun": SRUN, "scontrol": scontrol}.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    known = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    more = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "POLL_SECONDS": "2"}
    return {**known, **more}


def files(write_jsonl: Writer) -> tuple[Path, Path]:
    return write_jsonl("domain.jsonl", prompt_rows(5)), write_jsonl("pool.jsonl", prompt_rows(ROWS, seed=1))


def start(script: str, *given: object, env: dict[str, str], **slurm: object) -> subprocess.Popen[str]:
    variables = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
    command = ["bash", str(ROOT / "examples" / "slurm" / script), *map(str, given)]
    return subprocess.Popen(command, env={**env, **variables}, text=True)


def task(index: int) -> dict[str, object]:
    return {
        "ARRAY_JOB_ID": 7,
        "ARRAY_TASK_ID": index,
        "ARRAY_TASK_COUNT": SHARDS,
        "ARRAY_TASK_MIN": 0,
    }


def one_process(store: Path, like: Path, model: Path, pool: Path) -> str:
    """The digest of the pool's features as one process computes them with the same adapter."""
    adapter = str(like / "adapters" / "warmup")
    return featurize(
        store, data=pool, name="pool", kind="ntk", probe="centred", model=str(model), adapter=adapter
    ).digest


def test_there_are_scripts() -> None:
    assert [path.name for path in SCRIPTS] == ["features_array.sbatch", "features_nodes.sbatch", "select.sbatch"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_shellcheck(script: Path) -> None:
    checked = subprocess.run(
        [str(Path(sys.executable).parent / "shellcheck"), "--shell=bash", str(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow  # a dozen starts of the program
def test_an_array_job_whose_task_is_preempted(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, commands: dict[str, str]
) -> None:
    domain, pool = files(write_jsonl)
    store = tmp_path / "s"
    given = (store, model_dir, domain, pool)
    tasks = [start("features_array.sbatch", *given, env=commands, **task(i)) for i in range(SHARDS)]
    deadline = time.monotonic() + 600
    while not (store / "arrays.zarr" / "features" / "pool").exists():
        assert time.monotonic() < deadline, [each.poll() for each in tasks]
        time.sleep(0.05)
    tasks[1].send_signal(signal.SIGTERM)
    assert [each.wait(timeout=600) for each in tasks] == [0, 0]
    if (tmp_path / "scontrol").exists():  # else the task was through before the signal came
        assert (tmp_path / "scontrol").read_text(encoding="utf-8") == "requeue 7_1\n"
        again = start("features_array.sbatch", *given, env=commands, **task(1))
        assert again.wait(timeout=600) == 0
    found = open_store(store).get("features/pool/ntk")
    assert found.complete
    assert found.digest() == one_process(tmp_path / "one", store, model_dir, pool)


@pytest.mark.slow  # eight starts of the program
def test_one_job_over_nodes_then_the_selection(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, commands: dict[str, str]
) -> None:
    domain, pool = files(write_jsonl)
    test = write_jsonl("test.jsonl", prompt_rows(4, seed=2))
    store = tmp_path / "s"
    job = start("features_nodes.sbatch", store, model_dir, domain, pool, env=commands, JOB_ID=8)
    assert job.wait(timeout=600) == 0
    found = open_store(store).get("features/pool/ntk")
    assert found.complete
    assert found.digest() == one_process(tmp_path / "one", store, model_dir, pool)
    job = start("select.sbatch", store, model_dir, domain, test, 20, env=commands, JOB_ID=9)
    assert job.wait(timeout=600) == 0
    assert open_store(store).get("selections/picked").n == 20
