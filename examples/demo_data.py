"""Write the demo's train.jsonl, test.jsonl and pool.jsonl: python examples/demo_data.py OUT_DIR [--seed 0]."""

import argparse
import sys
from pathlib import Path

from ntkcli.demo import demo_model_path, write_demo_data
from ntkcli.engine.models.loading import load_tokenizer
from ntkcli.errors import NtkselError
from ntkcli.identity import resolve_model

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out_dir", type=Path, help="folder to write into; made where missing")
parser.add_argument("--seed", type=int, default=0, help="another seed gives other rows (default: 0)")
args = parser.parse_args()

try:
    tokenizer = load_tokenizer(resolve_model(str(demo_model_path())))
    made = write_demo_data(args.out_dir, tokenizer, seed=args.seed)
except NtkselError as error:
    print(error, file=sys.stderr)
    sys.exit(int(error.code))
print(f"{made.train}: {made.n_train} rows")
print(f"{made.test}: {made.n_test} rows")
print(f"{made.pool}: {made.n_pool} rows, {made.n_licences} of them licences")
