"""`kill -9` at random moments, then the same command again: the same bytes as a run that nobody broke."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows

PARTS = 12


def tree(store: Path) -> dict[str, bytes]:
    """All that a run must leave the same: not the store's own id, nor checkpoints of an odd moment."""
    return {
        str(path.relative_to(store)): path.read_bytes().replace(bytes(store), b"STORE")  # the card shows the command
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != "store.json" and "checkpoints" not in path.parts and "tmp" not in path.parts
    }


def killed_once(command: list[str], records: Path, *, after: int, delay: float) -> bool:
    """Run the command; kill it `delay` s after `after` more records stand. False if it finished before."""
    start = len(list(records.glob("*")))
    process = subprocess.Popen(
        [sys.executable, "-m", "ntkcli", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and len(list(records.glob("*"))) < start + after:
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), stderr
    return process.returncode != 0


@pytest.mark.parametrize("verb", ["featurize", "finetune"])
def test_kill_and_run_again(verb: str, cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("data.jsonl", prompt_rows(PARTS * 16, seed=4))
    if verb == "featurize":
        options = ["--name", "d", "--kind", "ntk", "--part-rows", "16", "--dim", "512", "--data", str(data)]
        records = tmp_path / "killed" / "arrays.zarr/features/d/ntk/part/c"
    else:
        options = ["--name", "r", "--train", str(data), "--epochs", "2", "--checkpoint-steps", "2"]
        records = tmp_path / "killed" / "arrays.zarr/runs/r/part/c"
    options += ["--model", str(model_dir), "--json"]
    assert cli(verb, tmp_path / "unbroken", *options).code == 0
    draw = random.Random(verb)
    kills = 0
    for after in (0, 3, 4):
        kills += killed_once(
            [verb, str(tmp_path / "killed"), *options], records, after=after, delay=draw.uniform(0.0, 0.03)
        )
    assert kills >= 2, "the command finished before it could be killed"
    assert cli(verb, tmp_path / "killed", *options).code == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "unbroken")


@pytest.mark.parametrize(("verb", "sent"), [("finetune", signal.SIGINT), ("eval", signal.SIGTERM)])
def test_interrupted_verbs_go_on(
    verb: str, sent: signal.Signals, cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    """Ctrl-C and SIGTERM end with 130 and one line; the same command then ends in the bytes of an unbroken run."""
    data = write_jsonl("data.jsonl", prompt_rows(PARTS * 2) if verb == "finetune" else choice_rows(64 * 4))
    if verb == "finetune":
        options = ["--name", "r", "--train", str(data), "--checkpoint-steps", "2", "--batch-size", "4", "--epochs", "8"]
        records = tmp_path / "broken/arrays.zarr/runs/r/part/c"
    else:
        options = ["--name", "e", "--task", str(data), "--run", "base", "--batch-tokens", "64"]
        records = tmp_path / "broken/arrays.zarr/evals/e/base/part/c"
    options += ["--model", str(model_dir)]
    command = [sys.executable, "-m", "ntkcli", verb, str(tmp_path / "broken"), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and not list(records.glob("*")):
        time.sleep(0.002)
    process.send_signal(sent)
    _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr
    assert cli(verb, tmp_path / "broken", *options).code == 0
    assert cli(verb, tmp_path / "unbroken", *options).code == 0
    assert tree(tmp_path / "broken") == tree(tmp_path / "unbroken")
    assert not list((tmp_path / "broken/tmp").iterdir())


def test_interrupt_says_how_to_go_on(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("data.jsonl", prompt_rows(PARTS * 16, seed=4))
    records = tmp_path / "s" / "arrays.zarr/features/d/ntk/part/c"
    options = ["--name", "d", "--kind", "ntk", "--part-rows", "4", "--data", str(data), "--model", str(model_dir)]
    process = subprocess.Popen(
        [sys.executable, "-m", "ntkcli", "featurize", str(tmp_path / "s"), *options], stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(records.glob("*")):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr


LOST = """
import signal, time, weakref
from ntkcli import app

class Thing: pass

def command(*arguments, **options):
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.{signal}))
    del thing  # Python forgets what a weak reference's callback raises
    time.sleep(60)

app.app = command
app.main([])
"""


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_interrupt_in_a_callback_is_not_lost(sent: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST.format(signal=sent)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 130, done.stderr
    assert "run the same command again" in done.stderr
    assert "Exception ignored" not in done.stderr
