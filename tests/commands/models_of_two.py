"""One of two processes that torchrun starts, which hold one model together: what `WORK` says, in a store.

The same calls by one process alone give what is expected.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ntkcli import options
from ntkcli.group import ALONE, Group
from ntkcli.steps.shared.shards import Shard

PARTS = {"part_rows": 5, "batch_tokens": 128, "dim": 64, "store_dtype": "float32"}
"""Of 21 rows: five parts, so that the first process has one more to compute than the second."""
FEATURES: dict[str, dict[str, Any]] = {
    "fresh": {"kind": "ntk", "probe": "rademacher", "probes": 2},
    "adapted": {"kind": "loss", "adapter": "run", "losses": True},
    "half": {"kind": "ntk", "adapter": "run", "dtype": "bfloat16", "layers": "last:1"},
    "embed": {"kind": "embed", "adapter": "run"},
}


def features(store: Path, group: Group, shard: Shard) -> None:
    from ntkcli.steps.features.featurize import featurize

    for feature, how in FEATURES.items():
        featurize(
            store,
            data=str(store.parent / "d.jsonl"),
            name="d",
            feature=feature,
            model=str(store.parent / "model"),
            shard=shard,
            processes=group,
            **PARTS,
            **how,
        )


def exact(store: Path, group: Group, shard: Shard) -> None:
    from ntkcli.steps.scores import exact as step
    from ntkcli.steps.scores.options import ScoreOptions
    from ntkcli.steps.scores.score import scores

    how = ScoreOptions(domain=("d",), feature=("adapted",), batch_tokens=128, processes=group)
    with patch.object(step, "PART_ROWS", 7):
        scores(store, pool="d", methods={"exact": "exact"}, options=how, shard=shard)


def evaluation(store: Path, group: Group, shard: Shard) -> None:
    from ntkcli.steps.evaluation import evaluate as step

    with patch.object(step, "PART_ROWS", 5):
        step.evaluate(
            store,
            model=str(store.parent / "model"),
            run=["base", "run"],
            task=[str(store.parent / "t.jsonl"), str(store.parent / "w.jsonl")],
            max_new_tokens=4,
            name="eval",
            shard=shard,
            processes=group,
        )


WORK: tuple[Callable[[Path, Group, Shard], None], ...] = (features, exact, evaluation)


def main(store: Path) -> None:
    from ntkcli.steps.shared.together import together

    shard = options.own_shard()
    with together(shard, "cpu") as group:
        for work in WORK:
            work(store, group, shard)
            group.check()
        show_shares(str(store.parent / "model"), group)


def show_shares(model: str, group: Group) -> None:
    """Print which share of the weights this process holds: in the decoder's blocks, and of the others."""
    from ntkcli.engine.models.beside import own_part
    from ntkcli.engine.models.sharding import load_shared
    from ntkcli.identity import resolve_model

    loaded = load_shared(resolve_model(model), dtype="float32", device="cpu", processes=group)
    shares = []
    for in_blocks in (True, False):
        held = [x for key, x in loaded.model.named_parameters() if (".layers." in key) == in_blocks]
        shares.append(sum(own_part(x).numel() for x in held) / sum(x.numel() for x in held))
    sys.stdout.write(f"{shares}\n")
    sys.stdout.flush()


def alone(store: Path) -> None:
    """The same by one process."""
    for work in WORK:
        work(store, ALONE, (0, 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
