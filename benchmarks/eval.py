"""`choices` evaluation against lm-evaluation-harness: the same model, items and tokens, in one process in turn.

    python benchmarks/eval.py --model MODEL_DIR --task test.jsonl --items 32

The harness's HFLM gets the very tokens that `ntksel eval` computes, at the best of the batch sizes given.
Needs the package lm_eval.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
from environment import describe

from ntkcli.data import DataFile, Encoded, Encoder, Row
from ntkcli.engine.evaluation.evaluator import Evaluator
from ntkcli.engine.models.loading import LoadedModel, load_model
from ntkcli.identity import resolve_model

AGREEMENT = 1e-4
"""Nats by which the log-likelihood of a choice may differ."""


def main() -> None:
    """Print both times, their ratio and the largest difference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--batch-sizes", default="1,4,16")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print(describe())
    loaded = load_model(resolve_model(options.model), dtype="float32", device="cpu")
    encoder = Encoder(loaded.tokenizer, max_length=1024)
    rows = (row for row in DataFile(options.task).rows() if isinstance(row, Row))
    items = [encoder.encode_choices(row) for row in islice(rows, options.items)]
    tokens = sum(len(choice) for choices in items for choice in choices)
    print(f"{len(items)} items, {sum(map(len, items))} choices, {tokens:,} tokens with every prompt repeated")
    ours = Evaluator(loaded, encoder, batch_tokens=None)
    ours.logliks(items[:2])
    ours_s, values = best_of(options.repeats, lambda: ours.logliks(items))
    print(f"ntksel                      {ours_s:7.2f} s  {len(items) / ours_s:6.2f} items/s")
    fastest = float("inf")
    for size in map(int, options.batch_sizes.split(",")):
        harness = harness_model(loaded, size)
        requests = [request for choices in items for request in as_requests(choices)]
        harness._loglikelihood_tokens(requests[:2], disable_tqdm=True)
        seconds, found = best_of(options.repeats, lambda: harness._loglikelihood_tokens(requests, disable_tqdm=True))  # noqa: B023  (called at once)
        fastest = min(fastest, seconds)
        worst = np.abs(np.concatenate(values) - [value for value, _ in found]).max()
        print(
            f"lm_eval HFLM, batch {size:3d}     {seconds:7.2f} s  {len(items) / seconds:6.2f} items/s; "
            f"largest difference {worst:.1e} nats"
        )
        if worst > AGREEMENT:
            raise SystemExit(f"the two disagree by more than {AGREEMENT} nats")
    print(f"{fastest / ours_s:.2f} times as fast as the harness at its best batch size")


def as_requests(choices: list[Encoded]) -> list[tuple[tuple[str, str], list[int], list[int]]]:
    """The choices of an item as the harness's tokenised requests; the key stands for the texts."""
    prefix = int(np.argmax(choices[0].supervised))
    key = str(choices[0].ids[:prefix].tolist())
    ends = [int(np.flatnonzero(one.supervised)[-1]) + 1 for one in choices]  # a template's line feed is not scored
    return [
        ((key, str(one.ids[prefix:end].tolist())), one.ids[:prefix].tolist(), one.ids[prefix:end].tolist())
        for one, end in zip(choices, ends, strict=True)
    ]


def harness_model(loaded: LoadedModel, batch_size: int) -> Any:
    """lm-evaluation-harness's own model class around the same weights."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size, device="cpu", max_length=1024
    )


def best_of(repeats: int, run: Callable[[], Any]) -> tuple[float, Any]:
    """The shortest of some runs, in seconds, and the last result."""
    best, found = float("inf"), None
    for _ in range(repeats):
        began = time.perf_counter()
        found = run()
        best = min(best, time.perf_counter() - began)
    return best, found


if __name__ == "__main__":
    main()
