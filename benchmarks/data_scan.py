#!/usr/bin/env python
"""What reading a pool costs: rows a second and peak memory of the scan that every data set goes through first.

    python benchmarks/data_scan.py [--rows 500000 2000000] [--characters 200] [--no-ids]

Made JSON Lines with an id and a label in each row. Each size is read by a fresh process, which prints its peak
resident memory, and what that was before the scan, when the libraries were loaded. Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ntkcli.data import DataFile, scan

TEXT = "the of and licence notice software may copy this grant use without warranty yes no maybe red blue"
WORDS = TEXT.split()


def write(path: Path, rows: int, characters: int, *, ids: bool) -> None:
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            text = " ".join(draw.choices(WORDS, k=characters // 5))
            row = {"prompt": text, "completion": f"answer {i}", "source": f"task {i % 100}"}
            file.write(json.dumps({"id": f"row-{i}", **row} if ids else row) + "\n")


def peak_mib() -> float:
    """The most that this process held; ru_maxrss would count what its parent held when it started it."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def measure(path: Path) -> None:
    """In the child: one line of JSON."""
    scan(DataFile(_head(path)), on_error="fail")  # loads what is loaded once
    before, began = peak_mib(), time.perf_counter()
    found = scan(DataFile(path), on_error="fail")
    seconds = time.perf_counter() - began
    print(json.dumps({"rows": found.n, "seconds": seconds, "before": before, "peak": peak_mib()}))


def _head(path: Path) -> Path:
    with path.open("rb") as file:
        head = path.with_name("head.jsonl")
        head.write_bytes(file.readline())
    return head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 2_000_000])
    parser.add_argument("--characters", type=int, default=200, help="of a prompt, about")
    parser.add_argument("--no-ids", action="store_true", help="rows bring no id")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    from environment import describe

    print(describe())
    print(f"{'rows':>10} {'file MiB':>9} {'rows/s':>8} {'MiB before':>11} {'MiB at most':>12}")
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pool.jsonl"
            write(path, rows, args.characters, ids=not args.no_ids)
            child = [sys.executable, __file__, "--measure", str(path)]
            found = json.loads(subprocess.run(child, capture_output=True, text=True, check=True).stdout)
            size = path.stat().st_size / 2**20
        rate = found["rows"] / found["seconds"]
        print(f"{found['rows']:>10,} {size:>9,.0f} {rate:>8,.0f} {found['before']:>11.0f} {found['peak']:>12.0f}")


if __name__ == "__main__":
    main()
