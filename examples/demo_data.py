"""Write the demo's train.jsonl, test.jsonl and pool.jsonl: python examples/demo_data.py OUT_DIR [--seed 0]."""

import argparse
import sys
from pathlib import Path

from ntkcli.demo import write_demo_data
from ntkcli.demo.pipeline import N_HIDDEN, N_POOL, N_TEST, N_TRAIN
from ntkcli.errors import NtkselError

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out_dir", type=Path, help="folder to write into; made where missing")
parser.add_argument("--seed", type=int, default=0, help="another seed gives other rows (default: 0)")
args = parser.parse_args()

try:
    sizes = {"n_train": N_TRAIN, "n_test": N_TEST, "n_pool": N_POOL, "n_hidden": N_HIDDEN}
    made = write_demo_data(args.out_dir, seed=args.seed, **sizes)
except NtkselError as error:
    print(error, file=sys.stderr)
    sys.exit(int(error.code))
print(f"{made.train}: {made.n_train} rows")
print(f"{made.test}: {made.n_test} rows")
print(f"{made.pool}: {made.n_pool} rows, {made.n_hidden} of them about licences")
