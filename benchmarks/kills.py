#!/usr/bin/env python
"""Kill writers of a store with SIGKILL, again and again, for as long as you like: what the suite does 30 times.

    python benchmarks/kills.py [--kills 300] [--seed 1] [--folder DIR]

Every kill is followed by a check of all that is recorded; every store that comes out whole is compared, byte for byte,
with one that nobody killed. Ends with a traceback at the first difference.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from environment import describe

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", help="where, on the file system to be tried; default: the system's temporary one")
    args = parser.parse_args()
    from tests.store.kills import kill_again_and_again

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        whole = kill_again_and_again(Path(folder), args.kills, seed=args.seed)
    print(describe())
    print(f"{args.kills} kills, {whole} stores whole and the same bytes, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
