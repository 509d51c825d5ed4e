#!/usr/bin/env python
"""What tokenising a pool costs: rows a second as it was at commit 48c4121, and as it is here, in one run.

    python benchmarks/tokenise.py --model MODEL --data ROWS.jsonl [--rows 2000] [--repeats 3] [--cores 1 2] [--old REV]

Two things are measured. `encode`: every row as tokens with its mask, from rows in memory. `featurize`: what features
need: lengths first, then the tokens again, which were tokenised twice and are now kept in a store and read. Each is
measured in a process of its own, old and new in turns, on the given number of cores (taskset's affinity; Linux). The
digest over all tokens and masks must be the same everywhere. Wall clock and processor time are given: on a busy machine
the second says more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

OLD = "48c4121"
LONGEST = 1024


def measure(model: str, data: str, n: int, cores: int, what: str) -> dict[str, Any]:
    """In the child, which imports the code of its own working tree."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    from ntkcli.data import DataFile, Encoded, Encoder, Row
    from ntkcli.engine.models.loading import load_tokenizer
    from ntkcli.identity import resolve_model

    identity = resolve_model(model)
    rows = [row for row in islice(DataFile(data).rows(), n) if isinstance(row, Row)]
    encoder = Encoder(load_tokenizer(identity), max_length=LONGEST)
    for row in rows[:50]:
        _encode(encoder, row)  # loads what is loaded once
    began = time.perf_counter(), time.process_time()
    found = _featurize(encoder, identity, rows) if what == "featurize" else _encode_all(encoder, rows)
    wall, processor = time.perf_counter() - began[0], time.process_time() - began[1]
    digest = hashlib.sha256()
    for one in found:
        assert one is None or isinstance(one, Encoded)
        digest.update(b"none" if one is None else one.ids.tobytes() + one.supervised.tobytes())
    return {"rows": len(rows), "wall": wall, "processor": processor, "digest": digest.hexdigest()[:16]}


def _encode(encoder: Any, row: Any) -> Any:
    from ntkcli.data import RowError

    try:
        return encoder.encode(row)
    except RowError:
        return None


def _encode_all(encoder: Any, rows: list[Any]) -> list[Any]:
    try:
        from ntkcli.steps.shared.kept_tokens import KeptTokens
    except ImportError:  # the old tree
        return [_encode(encoder, row) for row in rows]
    from ntkcli.data import Encoded

    return [one if isinstance(one, Encoded) else None for _, one in KeptTokens(None, encoder).encoded_rows(rows)]


def _featurize(encoder: Any, identity: Any, rows: list[Any]) -> list[Any]:
    """Lengths of all rows, then their tokens, as `ntksel featurize` asks for them."""
    from ntkcli.steps.shared import token_counts

    if not hasattr(token_counts, "kept_tokens"):
        token_counts.count(rows, identity, thinking=None)
        return [_encode(encoder, row) for row in rows]
    from ntkcli.data import Encoded
    from ntkcli.steps.shared.datasets import register_data
    from ntkcli.steps.shared.stores import open_store

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("".join(json.dumps(row.raw) + "\n" for row in rows), encoding="utf-8")
        stored = open_store(Path(folder, "store"), create=True)
        dataset, file = register_data(stored, name="d", data=path)
        token_counts.count_tokens(stored, dataset, file, identity)
        kept = token_counts.kept_tokens(stored, dataset, identity, encoder)
        return [one if isinstance(one, Encoded) else None for _, one in kept.encoded_rows(rows)]


def child(tree: Path, arguments: argparse.Namespace, cores: int, what: str) -> dict[str, Any]:
    """Measure the code of `tree` in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    environment.pop("TOKENIZERS_PARALLELISM", None)
    command = [sys.executable, __file__, "--model", arguments.model, "--data", arguments.data]
    command += ["--rows", str(arguments.rows), "--child", what, "--cores", str(cores)]
    ran = subprocess.run(command, env=environment, cwd=tree, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def report(arguments: argparse.Namespace, old: Path, new: Path) -> None:
    from environment import describe

    print(describe())
    print(
        f"{arguments.rows} rows of {Path(arguments.data).name}, cut at {LONGEST} tokens; best of {arguments.repeats}\n"
    )
    print("| what | cores | code | rows/s | rows per processor second | times the old | digest |")
    print("|---|---|---|---|---|---|---|")
    for what in ("encode", "featurize"):
        for cores in arguments.cores:
            runs: dict[str, list[dict[str, Any]]] = {"old": [], "new": []}
            for _ in range(arguments.repeats):
                for name, tree in (("old", old), ("new", new)):
                    runs[name].append(child(tree, arguments, cores, what))
            slow = min(run["wall"] for run in runs["old"])
            for name, found in runs.items():
                wall = min(run["wall"] for run in found)
                busy = min(run["processor"] for run in found)
                digests = ", ".join(sorted({run["digest"] for run in found}))
                speeds = f"{found[0]['rows'] / wall:,.0f} | {found[0]['rows'] / busy:,.0f}"
                print(f"| {what} | {cores} | {name} | {speeds} | {slow / wall:.2f} | {digests} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--old", default=OLD, help="the commit to compare with")
    parser.add_argument("--child", choices=["encode", "featurize"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        found = measure(arguments.model, arguments.data, arguments.rows, arguments.cores[0], arguments.child)
        print(json.dumps(found))
        return
    new = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "old")
        git = ["git", "-C", str(new), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(old), arguments.old], check=True)
        try:
            report(arguments, old, new)
        finally:
            subprocess.run([*git, "remove", "--force", str(old)], check=True)


if __name__ == "__main__":
    main()
