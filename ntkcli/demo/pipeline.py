"""The demo as a list of commands: features, a score, a selection, three fine-tunes, and their evaluation.

The demo runs exactly these commands, so what it prints is what it did. Sizes are chosen for 6 minutes on 2 CPU cores.
"""

from __future__ import annotations

from pathlib import Path

from ntkcli.demo.files import DemoData

N_TRAIN, N_TEST, N_POOL, N_HIDDEN = 12, 90, 400, 50
N_PICKED = 40
MAX_LENGTH = 160
"""Tokens; the longest row of the demo's data has fewer."""
DOMAIN_TIMES, PICKED_TIMES = 4, 2
"""How often an arm is trained on each row of the domain, and on each row from the pool."""

DOMAIN_ONLY, RANDOM, SELECTED = "domain-only", "domain-random", "domain-selected"
RUNS = (RANDOM, "base", DOMAIN_ONLY, SELECTED)
"""What is evaluated; the first is the baseline of the paired comparisons."""


def demo_commands(store: Path, model: Path, data: DemoData, picked: Path) -> list[list[str]]:
    """The arguments of `ntksel`, command by command, that make the demo's store from nothing."""
    s = str(store)
    on = ["--model", str(model), "--max-length", str(MAX_LENGTH)]
    train, test, pool = str(data.train), str(data.test), str(data.pool)
    kernel = ["--kind", "ntk", "--probe", "centred", *on, "--adapter", "warmup"]

    def finetune(name: str, *rows: str, until: tuple[str, str] = ("--epochs", "1")) -> list[str]:
        given = [word for row in rows for word in ("--train", row)]
        training = ["--lr", "1e-3", "--batch-size", "4", "--loss-per", "row", "--average-weights"]
        return ["finetune", s, *on, *given, "--name", name, *until, *training]

    domain = f"{train}={DOMAIN_TIMES}"
    return [
        finetune("warmup", domain),
        ["featurize", s, "--data", train, "--name", "domain", *kernel],
        ["featurize", s, "--data", pool, "--name", "pool", *kernel],
        ["score", s, "--pool", "pool", "--domain", "domain", "--method", "cosine", "--centre", "--name", "kernel"],
        ["select", s, "--score", "kernel", "-n", str(N_PICKED), "--name", "picked", "--export", str(picked)],
        ["score", s, "--pool", "pool", "--method", "random", "--name", "chance"],
        ["select", s, "--score", "chance", "-n", str(N_PICKED), "--name", "random"],
        finetune(SELECTED, domain, f"picked={PICKED_TIMES}"),
        finetune(RANDOM, domain, f"random={PICKED_TIMES}"),
        finetune(DOMAIN_ONLY, train, until=("--match-steps", SELECTED)),
        [
            *("eval", s, *on, "--task", test, "--name", "test"),
            *(word for run in RUNS for word in ("--run", run)),
        ],
    ]
