"""The demo as a list of commands: the two stages of recipe.toml, three fine-tunes, and their evaluation.

The demo runs exactly these commands, so what it prints is what it did.
"""

from __future__ import annotations

from pathlib import Path

from ntkcli.demo.files import N_LICENCES, TOKENS, DemoData

N_PICKED = N_LICENCES
N_COARSE = 4 * N_PICKED
"""Left by the first stage: four times what is taken, as in recipe.toml."""
MAX_LENGTH = TOKENS + 1
"""Tokens: a passage and the end-of-text token behind it."""
DOMAIN_TIMES = 3
"""How often an arm is trained on each passage of the domain; on each from the pool it is once."""

DOMAIN_STEPS, RANDOM, SELECTED = "domain-steps", "domain-random", "domain-selected"
RUNS = (RANDOM, "base", DOMAIN_STEPS, SELECTED)
"""What is evaluated; the first is the baseline of the paired comparisons."""


def demo_commands(store: Path, model: Path, data: DemoData, picked: Path) -> list[list[str]]:
    """The arguments of `ntksel`, command by command, that make the demo's store from nothing."""
    s = str(store)
    on = ["--model", str(model), "--text-as", "raw", "--max-length", str(MAX_LENGTH)]
    train, test, pool = str(data.train), str(data.test), str(data.pool)
    sides = ["--pool", "pool", "--domain", "domain"]

    def finetune(name: str, *rows: str, until: tuple[str, str] = ("--epochs", "1")) -> list[str]:
        given = [word for row in rows for word in ("--train", row)]
        return ["finetune", s, *on, *given, "--name", name, *until, "--batch-size", "4"]

    def featurize(rows: str, name: str, *kind: str) -> list[str]:
        return ["featurize", s, *on, "--data", rows, "--name", name, "--kind", *kind, "--adapter", "warmup"]

    domain, ntk = f"{train}={DOMAIN_TIMES}", ("ntk", "--probe", "centred")
    return [
        finetune("warmup", train),
        featurize(train, "domain", "embed"),
        featurize(pool, "pool", "embed"),
        ["score", s, *sides, "--method", "votes", "--feature", "embed", "--name", "stage1"],
        ["select", s, "--score", "stage1", "-n", str(N_COARSE), "--name", "coarse"],
        featurize(train, "domain", *ntk),
        featurize(pool, "pool", *ntk, "--rows", "coarse"),
        [
            *("score", s, *sides, "--method", "cosine", "--centre", "--feature", "ntk"),
            *("--rows", "coarse", "--name", "stage2"),
        ],
        ["select", s, "--score", "stage2", "-n", str(N_PICKED), "--name", "picked", "--export", str(picked)],
        ["score", s, "--pool", "pool", "--method", "random", "--name", "chance"],
        ["select", s, "--score", "chance", "-n", str(N_PICKED), "--name", "random"],
        finetune(SELECTED, domain, "picked"),
        finetune(RANDOM, domain, "random"),
        finetune(DOMAIN_STEPS, train, until=("--match-steps", SELECTED)),
        [
            *("eval", s, *on, "--task", test, "--name", "test"),
            *(word for run in RUNS for word in ("--run", run)),
        ],
    ]
