#!/usr/bin/env python
"""Peak memory and time of every verb on pools of several sizes: made texts, and made features (int8, 1,024 numbers).

    python benchmarks/pool_size.py [--texts 100000 --texts 200000] [--rows 1000000] [--only WORD ...] [--json FILE]

`--texts N` makes a pool of N texts of about 50 words, a domain and a test file, and runs the verbs that read texts;
`--rows N` makes N features over short rows and runs those that read features. Each verb is a process of its own: `peak`
is its high-water mark (VmHWM), so libraries are in it, and of mapped files what was touched. `cpu s` is processor time
of all cores, and `ms a row` that for a row of the pool, which should not grow with the pool. `refused` are verbs that
report at once that they need more memory than allowed. `--only` runs verbs whose label holds one of the words. A file
given by `--json` gets a line per verb.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from environment import describe

from ntkcli import feature_encoding
from ntkcli.steps.features.arrays import default_part_rows, feature_arrays, row_bytes
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.stores import open_store

DIM = 1024
WORDS, VOCABULARY = 50, 50_000
SOURCES = ("books", "code", "forum", "news", "papers", "web")
CHOSEN = 0.005  # of the pool: the paper's 9,000 of 1.8 million
RUN = """
import atexit, sys
from pathlib import Path
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    Path(sys.argv[1]).write_text(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
atexit.register(peak)
from ntkcli.app import main
main(sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Pool:
    """A store in a folder, with a pool of `n` rows."""

    folder: Path
    n: int

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    @property
    def chosen(self) -> str:
        return str(max(100, round(CHOSEN * self.n)))


Verb = Callable[[Pool], list[str]]


def score(name: str) -> Verb:
    method, *more = name.split(" ")
    given = [] if method == "random" else ["--domain", "domain"]
    label = name.replace(" ", "").replace("--", "-").replace(".", "")
    return lambda pool: ["score", pool.store, "--pool", "pool", "--method", method, "--name", label, *given, *more]


def select(name: str, by: str, *options: str) -> Verb:
    def verb(pool: Pool) -> list[str]:
        words = [word.format(folder=pool.folder) for word in options]
        return ["select", pool.store, "--score", by, "-n", pool.chosen, "--name", name, *words]

    return verb


ON_TEXTS: dict[str, Verb] = {
    "score random": score("random"),
    "score bm25": score("bm25"),
    "score dsir": score("dsir"),
    "select top": select("top", "bm25", "--leaks", "ignore"),
    "select --exclude ids": select("without", "bm25", "--leaks", "ignore", "--exclude", "{folder}/ids.txt"),
    "select --max-per-source": select("mixed", "bm25", "--leaks", "ignore", "--max-per-source", "20%"),
    "select --dedup exact": select("apart", "bm25", "--leaks", "ignore", "--dedup", "exact"),
    "select --dedup minhash": select("unlike", "bm25", "--leaks", "ignore", "--dedup", "minhash"),
    "select --against": select("clean", "bm25", "--against", "{folder}/test.jsonl"),
    "select --export jsonl": select("top", "bm25", "--leaks", "ignore", "--export", "{folder}/top.jsonl"),
    "select --export parquet": select("top", "bm25", "--leaks", "ignore", "--export", "{folder}/top.parquet"),
    "select --export-scores": select("top", "bm25", "--leaks", "ignore", "--export-scores", "{folder}/scores.parquet"),
    "explain": lambda pool: ["explain", pool.store, "top", "id-7", "--bottom"],
    "explain, why not": lambda pool: ["explain", pool.store, "unlike", "id-9"],
    "report": lambda pool: ["report", pool.store],
    "info": lambda pool: ["info", pool.store],
    "verify": lambda pool: ["info", pool.store, "--verify"],
    "split": lambda pool: ["split", str(pool.folder / "pool.jsonl"), "--test", ".2", "--force"],
}

ON_FEATURES: dict[str, Verb] = {
    "score mean": score("mean"),
    "score cosine": score("cosine"),
    "score cosine --centre": score("cosine --centre"),
    "score votes": score("votes"),
    "score rds": score("rds"),
    "score max": score("max"),
    "score gist": score("gist"),
    "score mean --whiten": score("mean --whiten .1"),
    "select top": select("top", "cosine", "--leaks", "ignore"),
    "select --dedup .95": select("unlike", "cosine", "--leaks", "ignore", "--dedup", ".95"),
    "select round-robin": select("turns", "cosine", "--leaks", "ignore", "--method", "round-robin"),
    "select herding": select("herding", "cosine", "--leaks", "ignore", "--method", "herding"),
    "select coverage": select("coverage", "cosine", "--leaks", "ignore", "--method", "coverage"),
    "select ot": select("ot", "cosine", "--leaks", "ignore", "--method", "ot"),
    "select herding of 20,000": select(
        "some-h", "cosine", "--leaks", "ignore", "--method", "herding", "--candidates", "20000"
    ),
    "select coverage of 20,000": select(
        "some-c", "cosine", "--leaks", "ignore", "--method", "coverage", "--candidates", "20000"
    ),
    "select ot of 20,000": select("some-o", "cosine", "--leaks", "ignore", "--method", "ot", "--candidates", "20000"),
    "select --explain": select("top", "cosine", "--leaks", "ignore", "--explain"),
    "explain": lambda pool: ["explain", pool.store, "top", "id-7"],
    "explain, why not": lambda pool: ["explain", pool.store, "unlike", "id-9"],
    "report": lambda pool: ["report", pool.store],
    "info": lambda pool: ["info", pool.store],
    "verify": lambda pool: ["info", pool.store, "--verify"],
}


def texts(n: int, *, words: int, seed: int) -> Iterator[str]:
    """Words by Zipf's law; one text in 20 repeats an earlier one but for a word, one in 100 repeats it."""
    draw = np.random.default_rng(seed)
    before: list[np.ndarray] = []
    for low in range(0, n, 4096):
        count = min(4096, n - low)
        lengths = draw.poisson(words, count) + 3
        flat = np.minimum(draw.zipf(1.2, lengths.sum()), VOCABULARY)
        fate = draw.random(count)
        for i, fresh in enumerate(np.split(flat, np.cumsum(lengths)[:-1])):
            repeats = before and fate[i] < 0.06
            codes = before[int(draw.integers(len(before)))].copy() if repeats else fresh
            if repeats and fate[i] < 0.05:
                codes[int(draw.integers(len(codes)))] = VOCABULARY + 1
            before = [*before[-63:], codes]
            yield " ".join(f"w{code}" for code in codes.tolist())


def write_rows(path: Path, n: int, *, words: int, seed: int, mark: str = "id") -> None:
    with path.open("w") as file:
        for i, text in enumerate(texts(n, words=words, seed=seed)):
            cut = max(1, len(text) * 3 // 4)
            row = {"id": f"{mark}-{i}", "source": SOURCES[i % len(SOURCES)], "prompt": text[:cut]}
            file.write(json.dumps(row | {"completion": text[cut:] or "yes"}) + "\n")


def make_pool(folder: Path, n: int, *, words: int) -> Pool:
    """Pool, domain and test file, with the first two in a store."""
    folder.mkdir(parents=True)
    write_rows(folder / "pool.jsonl", n, words=words, seed=0)
    write_rows(folder / "domain.jsonl", 1000 if words < WORDS else 200, words=words, seed=1, mark="d")
    with (folder / "test.jsonl").open("w") as file, (folder / "pool.jsonl").open() as pool:
        for i, line in enumerate(pool):
            if i == 200:
                break
            file.write(line.replace('"id-', '"t-') if i % 10 == 0 else line.replace('"prompt": "', '"prompt": "v'))
    (folder / "ids.txt").write_text("".join(f"id-{i}\n" for i in range(0, n, 10)))
    stored = open_store(folder / "store", create=True)
    for name in ("pool", "domain"):
        register_data(stored, name=name, data=folder / f"{name}.jsonl")
    return Pool(folder, n)


def make_features(pool: Pool) -> None:
    """Features of pool and domain: rows of one of 32 directions and one that all share, norms over two decades."""
    stored = open_store(pool.store)
    shape = np.random.default_rng(9).standard_normal((33, DIM), dtype=np.float32)
    for name, seed in (("domain", 1), ("pool", 0)):
        dataset, draw = stored.get(f"datasets/{name}"), np.random.default_rng(seed)
        arrays = feature_arrays("sketch", DIM, "int8", some_rows=False)
        part_rows = default_part_rows("ntk", dataset.n, row_bytes(arrays))
        artefact = stored.create(
            f"features/{name}/ntk", kind="features", n=dataset.n, part_rows=part_rows, arrays=arrays,
            attrs={"model": "made", "adapter": None}, plan={"batch_tokens": 1},
            spec={"kind": "ntk", "store_dtype": "int8", "data": dataset.spec["digest"], "rows": None, "model": {}},
            parents={dataset.name: dataset.fingerprint},
        )  # fmt: skip
        for part in artefact.pending():
            start, stop = artefact.part_bounds(part)
            kind = draw.integers(0, 8 if name == "domain" else 32, stop - start)
            unit = draw.standard_normal((stop - start, DIM), dtype=np.float32) * 2 + shape[kind] + shape[32]
            unit /= np.linalg.norm(unit, axis=1, keepdims=True)
            rest = {
                "norm": np.exp(draw.normal(0, 1.15, stop - start)).astype(np.float32),
                "tokens": np.full(stop - start, 64, np.int32),
                "status": np.zeros(stop - start, np.uint8),
            }
            artefact.write_part(part, {**feature_encoding.encode(unit, "sketch", "int8"), **rest})


def run(words: Sequence[str], note: Path) -> dict[str, Any]:
    """Seconds, GiB at the peak and the exit code of one verb; `said` is the last line of an error."""
    note.unlink(missing_ok=True)
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    found = subprocess.run(
        [sys.executable, "-c", RUN, str(note), *words, "--quiet"], capture_output=True, text=True, check=False
    )
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = int(note.read_text()) / 2**20 if note.exists() else float("nan")
    said = "" if found.returncode == 0 else (found.stderr.strip().splitlines() or [""])[-1]
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_gib": round(peak, 3),
        "exit": found.returncode,
        "said": said,
    }


def measure(pool: Pool, verbs: dict[str, Verb], kind: str, only: Sequence[str], out: Path | None, where: str) -> None:
    for label, verb in verbs.items():
        if only and not any(word in label for word in only):
            continue
        result = run(verb(pool), pool.folder / "peak")
        per = 1e3 * result["cpu_seconds"] / pool.n
        end = "" if result["exit"] == 0 else "refused" if result["exit"] == 2 else f"FAILED ({result['said']})"
        print(
            f"{kind:9} {pool.n:>10,} {label:26} {result['seconds']:9.1f} {result['cpu_seconds']:9.1f} {per:9.3f}"
            f" {result['peak_gib']:9.2f}  {end}",
            flush=True,
        )
        if out is not None:
            with out.open("a") as file:
                line = {"kind": kind, "rows": pool.n, "verb": label, **result, "environment": where}
                file.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, action="append", default=[], metavar="N")
    parser.add_argument("--rows", type=int, action="append", default=[], metavar="N")
    parser.add_argument("--only", action="append", default=[], metavar="WORD")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--folder", type=Path, help="where pools are made and found again; default: a temporary one")
    given = parser.parse_args()
    where = describe()
    print(where)
    print(f"{'pool':9} {'rows':>10} {'verb':26} {'seconds':>9} {'cpu s':>9} {'ms a row':>9} {'peak GiB':>9}")
    with tempfile.TemporaryDirectory() as temporary:
        for kind, sizes, words, verbs in (
            ("texts", given.texts, WORDS, ON_TEXTS),
            ("features", given.rows, 6, ON_FEATURES),
        ):
            for n in sizes:
                folder = (given.folder or Path(temporary)) / f"{kind}-{n}"
                pool = Pool(folder, n)
                if not (folder / "made").exists():
                    make_pool(folder, n, words=words)
                    if kind == "features":
                        make_features(pool)
                    (folder / "made").touch()
                measure(pool, verbs, kind, given.only, given.json, where)


if __name__ == "__main__":
    main()
