"""Write plain texts as train.jsonl, test.jsonl and pool.jsonl: python examples/raw_text_data.py OUT_DIR [--seed 0].

The domain is whole licences out of the package licensedcode-data; the pool has others and general questions with their
answers. Each row has the one column text (and an id and a source).
"""

import argparse
import json
import sys
from itertools import islice
from pathlib import Path

from ntkcli.demo.licences import licences
from ntkcli.demo.pool import general
from ntkcli.demo.text import rank
from ntkcli.errors import NtkselError

N_TRAIN, N_TEST, N_LICENCES, N_GENERAL = 12, 16, 24, 48


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_dir", type=Path, help="folder to write into; made where missing")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other rows (default: 0)")
    args = parser.parse_args()
    try:
        texts = list(islice(licences(args.seed), N_TRAIN + N_TEST + N_LICENCES))
        others = general(args.seed, N_GENERAL)
    except NtkselError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.code))
    args.out_dir.mkdir(parents=True, exist_ok=True)
    write(args.out_dir / "train.jsonl", texts[:N_TRAIN])
    write(args.out_dir / "test.jsonl", texts[N_TRAIN : N_TRAIN + N_TEST])
    mixed = [*texts[N_TRAIN + N_TEST :], *others]
    write(args.out_dir / "pool.jsonl", sorted(mixed, key=lambda row: rank(args.seed, "pool", row["id"])))
