#!/usr/bin/env python
"""The claims of NTK-Selector (arXiv 2511.07380) about its kernel, measured again. Each takes minutes of two cores.

    python benchmarks/study/claims.py stability --data DIR --folder DIR [--task T] [--epochs 1,2,4,8,16]
        [--probe sum --probe centred]
    python benchmarks/study/claims.py jacobian-free --data DIR --folder DIR [--task T] [--layers last:4|all]
        [--adapter A]
    python benchmarks/study/claims.py kernel-regression --data DIR --folder DIR [--task T] [--test 120]

stability          the kernel and its ranking of a pool over epochs of fine-tuning, against before and the first epoch
jacobian-free      the exact trace kernel of all outputs against one backward pass (the paper's sum, other probes), and
                   how nearly orthogonal the gradients of different outputs are
kernel-regression  ridge regression with the kernel against fine-tuning on the same rows

--data as for compare.py. Artefacts are kept in the store in --folder, which may be compare.py's: what is finished
there is not made again, and a second call goes on where the first was stopped (jacobian-free keeps none).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jacobian_free
import kernel_regression
import stability
from environment import describe
from setting import REDUCED, cut_data

from ntkcli.demo import demo_model_path


def parser() -> argparse.ArgumentParser:
    """All arguments."""
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    claims = whole.add_subparsers(dest="claim", required=True)
    found = {}
    for name, domain in (("stability", 32), ("jacobian-free", 6), ("kernel-regression", 32)):
        one = found[name] = claims.add_parser(name)
        one.add_argument("--data", type=Path, required=True, help="the files of tasks and pool")
        one.add_argument("--folder", type=Path, required=True, help="where data and store are kept")
        one.add_argument("--task", default=REDUCED.tasks[0])
        one.add_argument("--model", help="default: the demo's SmolLM2-135M-Instruct")
        one.add_argument("--domain", type=int, default=domain, help="rows of the domain")
    found["stability"].add_argument("--pool", type=int, default=64, help="rows of the pool")
    found["stability"].add_argument("--epochs", default="1,2,4,8,16", help="points of the course, by commas")
    found["stability"].add_argument("--probe", action="append", choices=("sum", "centred"), help="default: sum")
    found["stability"].add_argument("--dim", type=int, default=8192, help="size of the sketch")
    exact = found["jacobian-free"]
    exact.add_argument("--pool", type=int, default=10, help="rows of the pool")
    exact.add_argument("--max-tokens", type=int, default=96, help="rows with more are passed over")
    exact.add_argument("--layers", default="last:4", help="as featurize's; `all` takes seven times as long")
    exact.add_argument("--adapter", help="a run of the store or a folder; default: fresh")
    exact.add_argument("--draws", type=int, default=8, help="of each random probe")
    exact.add_argument("--outputs", type=int, default=64, help="outputs compared; so many copies of a row are a batch")
    exact.add_argument("--cosine-rows", type=int, default=4, help="rows whose outputs are compared")
    found["kernel-regression"].add_argument("--test", type=int, default=120, help="test items")
    return whole


def main() -> None:
    """Cut the data and measure one claim."""
    given = parser().parse_args()
    given.model = given.model or str(demo_model_path())
    setting = replace(REDUCED, tasks=(given.task,))
    training: dict[str, Any] = {key.replace("-", "_"): value for key, value in setting.training.items()}
    training["max_length"] = setting.max_length
    folder = given.folder / "claims" / given.claim
    rows = {"domains": (given.domain,), "test_items": getattr(given, "test", 0), "pool_rows": getattr(given, "pool", 0)}
    if given.claim == "jacobian-free":  # short ones are picked out of more
        rows |= {"domains": (16 * given.domain,), "pool_rows": 16 * given.pool}
    cut_data(given.data, folder, replace(setting, **rows))
    domain, test, pool = (
        folder / name
        for name in (f"{given.task}-d{rows['domains'][0]}.jsonl", f"{given.task}-test.jsonl", "pool.jsonl")
    )
    print(describe())
    if given.claim == "stability":
        stability.report(given, domain, pool, training)
    elif given.claim == "jacobian-free":
        jacobian_free.report(given, domain, pool)
    else:
        kernel_regression.report(given, domain, test, setting, training)


if __name__ == "__main__":
    main()
