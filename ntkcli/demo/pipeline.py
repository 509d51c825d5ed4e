"""The demo as a list of commands: features, a score, a selection, three fine-tunes, and their evaluation.

The demo runs exactly these commands, so what it prints is what it did. It takes 6 to 8 minutes on 2 CPU cores.
"""

from __future__ import annotations

from pathlib import Path

from ntkcli.demo.files import DemoData

N_TRAIN, N_TEST, N_POOL, N_HIDDEN = 12, 100, 480, 90
N_PICKED = 72
MAX_LENGTH = 160
"""Tokens; the longest row of the demo's data has fewer."""
DOMAIN_TIMES = 4
"""How often an arm is trained on each row of the domain; on each row from the pool it is once."""

DOMAIN_ONLY, DOMAIN_STEPS, RANDOM, SELECTED = "domain", "domain-steps", "domain-random", "domain-selected"
RUNS = (RANDOM, "base", DOMAIN_ONLY, DOMAIN_STEPS, SELECTED)
"""What is evaluated; the first is the baseline of the paired comparisons."""


def demo_commands(store: Path, model: Path, data: DemoData, picked: Path) -> list[list[str]]:
    """The arguments of `ntksel`, command by command, that make the demo's store from nothing."""
    s = str(store)
    on = ["--model", str(model), "--max-length", str(MAX_LENGTH)]
    train, test, pool = str(data.train), str(data.test), str(data.pool)
    warm = [*on, "--adapter", "warmup"]
    sides = ["--pool", "pool", "--domain", "domain"]

    def finetune(name: str, *rows: str, until: tuple[str, str] = ("--epochs", "1")) -> list[str]:
        given = [word for row in rows for word in ("--train", row)]
        training = ["--lr", "1e-3", "--batch-size", "4", "--loss-per", "row", "--average-weights"]
        return ["finetune", s, *on, *given, "--name", name, *until, *training]

    domain = f"{train}={DOMAIN_TIMES}"
    return [
        finetune("warmup", domain),
        ["featurize", s, "--data", train, "--name", "domain", "--kind", "embed", *warm],
        ["featurize", s, "--data", pool, "--name", "pool", "--kind", "embed", *warm],
        ["score", s, *sides, "--method", "cosine", "--feature", "embed", "--name", "about"],
        ["featurize", s, "--data", train, "--name", "domain", "--kind", "loss", *warm],
        ["featurize", s, "--data", pool, "--name", "pool", "--kind", "loss", *warm],
        ["score", s, *sides, "--method", "cosine", "--feature", "loss", "--name", "teaches"],
        ["score", s, "--combine", "about", "--combine", "teaches", "--name", "both"],
        ["select", s, "--score", "both", "-n", str(N_PICKED), "--name", "picked", "--export", str(picked)],
        ["score", s, "--pool", "pool", "--method", "random", "--name", "chance"],
        ["select", s, "--score", "chance", "-n", str(N_PICKED), "--name", "random"],
        finetune(SELECTED, domain, "picked"),
        finetune(RANDOM, domain, "random"),
        finetune(DOMAIN_ONLY, domain),
        finetune(DOMAIN_STEPS, train, until=("--match-steps", SELECTED)),
        [
            *("eval", s, *on, "--task", test, "--name", "test"),
            *(word for run in RUNS for word in ("--run", run)),
        ],
    ]
