#!/usr/bin/env python
"""Which score finds which rows? How far up a pool's scores put the rows of each source, from a store; trains nothing.

    python benchmarks/study/finds.py STORE [--against general]

For each score and source: AUC (the chance that a row of the source stands above one of --against; .5: chance), and the
share of the source's rows among the best rows, as many as there are outside of --against.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from environment import describe
from planted import auc

import store
from ntkcli.steps.shared.stores import open_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--against", default="general", help="the source that the others are compared with")
    given = parser.parse_args()
    print(describe())
    print(table(given.store, against=given.against))


def table(path: Path, *, against: str) -> str:
    """A markdown table of every score of the pool `pool`: AUC against the rows of `against`, share of the best rows."""
    stored = open_store(path)
    source = sources_of(path)
    others = [label for label in dict.fromkeys(source) if label != against]
    lines = ["| score | " + " | ".join(others) + " |", "|---" * (len(others) + 1) + "|"]
    for name in stored.names([store.Kind.SCORE]):
        if stored.get(name).attrs["data"] == "pool":
            cells = [cell(stored.get(name), source, label, against) for label in others]
            lines.append(f"| {name.partition('/')[2]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sources_of(path: Path) -> NDArray[np.str_]:
    """The label of each row of the pool (n,)."""
    pool = open_store(path).get("datasets/pool")
    return np.array([str(label) for label in pool.attrs["sources"]])[pool.read("source")]


def cell(score: store.Artefact, source: NDArray[np.str_], label: str, against: str) -> str:
    """AUC of the rows of `label` against those of `against`, and their share of the best rows."""
    values = score.read("score").astype(float)
    both = np.isin(source, [label, against])
    best = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[: int((source != against).sum())]
    found = auc(np.where(both, values, np.nan), source == label)
    return f"{found:.3f} / {(source[best] == label).sum() / (source == label).sum():.0%}"


if __name__ == "__main__":
    main()
