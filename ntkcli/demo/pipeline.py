"""The demo as a list of commands: the two stages of NTK-Selector, three fine-tunes and their evaluation.

The demo runs exactly these commands, so what it prints is what it did. Sizes are chosen for 8 minutes on 2 CPU cores.
"""

from __future__ import annotations

from pathlib import Path

from ntkcli.demo.files import DemoData

N_TRAIN, N_TEST, N_POOL = 60, 90, 240
N_COARSE, N_PICKED = 64, 20
MAX_LENGTH = 160
"""Tokens; the longest row of the demo's data has fewer."""

DOMAIN_ONLY, RANDOM, SELECTED = "domain-only", "domain-random", "domain-selected"
RUNS = (DOMAIN_ONLY, "base", RANDOM, SELECTED)
"""What is evaluated; the first is the baseline of the paired comparisons."""


def demo_commands(store: Path, model: Path, data: DemoData, picked: Path) -> list[list[str]]:
    """The arguments of `ntksel`, command by command, that make the demo's store from nothing."""
    s, length = str(store), ["--max-length", str(MAX_LENGTH)]
    on = ["--model", str(model), *length]
    train, test, pool = str(data.train), str(data.test), str(data.pool)
    warm = ["--adapter", "warmup"]
    domain_pool = ["--pool", "pool", "--domain", "domain"]

    def finetune(name: str, *rows: str, epochs: int) -> list[str]:
        given = [word for row in rows for word in ("--train", row)]
        return [
            "finetune",
            s,
            *on,
            *given,
            "--name",
            name,
            "--epochs",
            str(epochs),
            "--lr",
            "4e-4",
            "--batch-size",
            "8",
        ]

    return [
        finetune("warmup", train, epochs=1),
        ["featurize", s, "--data", train, "--name", "domain", "--kind", "embed", *on, *warm],
        ["featurize", s, "--data", pool, "--name", "pool", "--kind", "embed", *on, *warm],
        ["score", s, *domain_pool, "--method", "votes", "--feature", "embed", "--name", "stage1"],
        ["select", s, "--score", "stage1", "-n", str(N_COARSE), "--name", "coarse"],
        ["featurize", s, "--data", train, "--name", "domain", "--kind", "ntk", *on, *warm],
        ["featurize", s, "--data", pool, "--name", "pool", "--kind", "ntk", *on, *warm, "--rows", "coarse"],
        ["score", s, *domain_pool, "--method", "mean", "--rows", "coarse", "--name", "stage2"],
        ["select", s, "--score", "stage2", "-n", str(N_PICKED), "--name", "picked", "--export", str(picked)],
        ["score", s, "--pool", "pool", "--method", "random", "--name", "chance"],
        ["select", s, "--score", "chance", "-n", str(N_PICKED), "--name", "random"],
        finetune(DOMAIN_ONLY, train, epochs=2),
        finetune(RANDOM, train, "random", epochs=2),
        finetune(SELECTED, train, "picked", epochs=2),
        [
            *("eval", s, *on, "--task", test, "--name", "test"),
            *(word for run in RUNS for word in ("--run", run)),
        ],
    ]
