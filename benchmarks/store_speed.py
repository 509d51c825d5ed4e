#!/usr/bin/env python
"""The store against plain numpy on the same disk in one run, and how long `info` and finished commands take.

    python benchmarks/store_speed.py [--folder DIR] [--parts 16] [--repeats 3]

Writing: parts of 1,792 rows of 8,192 float16 numbers (28 MiB) with all their arrays, durable, against `numpy.tofile`
and fsync of the same sketches. Reading: all blocks, checksums included, against `numpy.fromfile` of the files; both
from the page cache, where no disk hides the work. info: 1.8 million rows in 1,005 parts, every file there, empty,
since info reads none but the records. A finished `ntksel featurize` is run again in a new process, with all features of
2,000 rows by a tiny model made on the spot there; the process also says whether it imported torch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from environment import describe

from ntkcli.steps.features.arrays import default_part_rows, feature_arrays
from store import Artefact, Store

DIM, POOL = 8192, 1_800_000


def seconds(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def create(folder: Path, name: str, n: int) -> Artefact:
    arrays = feature_arrays("sketch", DIM, "float16", some_rows=False)
    rows = default_part_rows("ntk", POOL, sum(array.row_bytes for array in arrays.values()))
    store = Store.open_or_create(folder / "med", made_by="benchmark")
    return store.create(name, kind="features", spec={}, parents={}, n=n, part_rows=rows, arrays=arrays)


def part_of(rows: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        "sketch": draw.standard_normal((rows, DIM), dtype=np.float32).astype(np.float16),
        "norm": np.ones(rows, np.float32),
        "tokens": np.ones(rows, np.int32),
        "status": np.zeros(rows, np.uint8),
    }


def write_numpy(folder: Path, part: dict[str, np.ndarray], parts: int) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(parts):
        with (folder / f"{i}.bin").open("wb") as file:
            part["sketch"].tofile(file)
            file.flush()
            os.fsync(file.fileno())


def write_store(artefact: Artefact, part: dict[str, np.ndarray]) -> None:
    for i in range(artefact.n_parts):
        artefact.write_part(i, part)


def read_numpy(folder: Path, parts: int) -> None:
    for i in range(parts):
        np.fromfile(folder / f"{i}.bin", np.float16)


def read_store(artefact: Artefact) -> None:
    for _ in artefact.blocks(["sketch"]):
        pass


def info_seconds(folder: Path) -> float:
    artefact = create(folder, "features/large/ntk", POOL)
    records = artefact.path / "part" / "c"
    records.mkdir()
    for i in range(artefact.n_parts):
        (records / str(i)).write_bytes(b"\1\2\3\4")
        for array in artefact.arrays:
            chunk = artefact.path.joinpath(array, "c", str(i), *("0" for _ in artefact.arrays[array].tail))
            chunk.parent.mkdir(parents=True, exist_ok=True)
            chunk.touch()
    command = [sys.executable, "-m", "ntkcli", "info", str(folder / "med")]
    return min(seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(3))


def tiny_model(folder: Path) -> Path:
    """A random Llama of two layers, with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=words[0], pad_token=words[0]).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return folder


def finished_again(folder: Path) -> tuple[float, bool]:
    """Seconds that a finished `ntksel featurize` takes, process and all, and whether it imported torch."""
    data = folder / "rows.jsonl"
    data.write_text("".join(f'{{"prompt": "Row {i}?", "completion": "yes"}}\n' for i in range(2000)))
    options = ["--data", str(data), "--name", "rows", "--kind", "ntk", "--dim", "512", "--model"]
    options.append(str(tiny_model(folder / "model")))
    arguments = ["featurize", str(folder / "again"), *options]
    code = f"import sys; from ntkcli.app import run; run({arguments!r}); print('torch' in sys.modules)"

    def call() -> str:
        ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        return ran.stdout.splitlines()[-1]

    call()  # computes
    said: set[str] = set()
    took = min(seconds(lambda: said.add(call())) for _ in range(3))
    return took, said != {"False"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where, on the disk to be measured; default: the system's temporary one")
    parser.add_argument("--parts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        folder, best = Path(place), dict.fromkeys(("write numpy", "write store", "read numpy", "read store"), np.inf)
        first = create(folder, "features/first/ntk", 1 << 20)
        part = part_of(first.part_rows)
        for repeat in range(args.repeats):  # turn by turn, so that a busy disk is busy for both
            artefact = create(folder, f"features/d{repeat}/ntk", args.parts * first.part_rows)
            for name, run in {
                "write numpy": lambda: write_numpy(folder / "numpy", part, args.parts),
                "write store": lambda artefact=artefact: write_store(artefact, part),
                "read numpy": lambda: read_numpy(folder / "numpy", args.parts),
                "read store": lambda artefact=artefact: read_store(artefact),
            }.items():
                best[name] = min(best[name], seconds(run))
        size = args.parts * part["sketch"].nbytes / 2**20
        for name, took in best.items():
            print(f"{name:12} {size / took:8.0f} MiB/s")
        for verb in ("write", "read"):
            print(f"{verb}: {best[f'{verb} numpy'] / best[f'{verb} store']:.2f} of numpy's speed")
        print(f"ntksel info, 1.8 million rows in parts of {first.part_rows}: {info_seconds(folder):.2f} s")
        took, imports_torch = finished_again(folder)
        print(
            f"a finished ntksel featurize again: {took:.2f} s, torch {'IMPORTED' if imports_torch else 'not imported'}"
        )


if __name__ == "__main__":
    main()
