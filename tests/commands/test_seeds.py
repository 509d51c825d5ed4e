"""Seeds of 64 bits, in every verb that has one: larger ones are refused as usage errors, the largest work."""

from __future__ import annotations

from pathlib import Path

import pytest

from ntkcli.steps.shared.stores import open_store
from tests.app_commands import COMMANDS
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows

OPTIONS = {
    ("featurize", "--seed"),
    ("featurize", "--adapter-seed"),
    ("score", "--seed"),
    ("finetune", "--seed"),
    ("finetune", "--seeds"),
    ("arms", "--seeds"),
    ("demo", "--seed"),
    ("split", "--seed"),
    ("validate", "--seeds"),
    ("diagnose", "--seed"),
}


def command(verb: str, store: Path, data: Path, model: Path) -> list[str | Path]:
    """The verb with all it needs but its seed."""
    more: dict[str, list[str | Path]] = {
        "featurize": [store, "--data", data, "--name", "d", "--kind", "ntk", "--dim", "64", "--model", model],
        "score": [store, "--pool", f"p={data}", "--method", "random", "--name", "r"],
        "finetune": [store, "--train", data, "--name", "f", "--epochs", "1", "--model", model],
        "arms": [store, "--domain", data, "--pool", data, "--task", data, "-n", "1", "--name", "a", "--model", model],
        "demo": [store],
        "validate": [store, "--score", "r", "--domain", data, "--task", data, "--name", "v", "--model", model],
        "diagnose": [store, "supply", "--pool", data, "--domain", data, "--model", model],
        "split": [data, "--test", "0.5", "--out", store],
    }
    return [verb, *more[verb]]


def test_every_option_of_seeds_is_here() -> None:
    found = {
        (verb, flag)
        for verb, each in COMMANDS.items()
        for option in each.params
        for flag in option.opts
        if "seed" in flag
    }
    assert found == OPTIONS


@pytest.mark.parametrize(("verb", "option"), sorted(OPTIONS))
@pytest.mark.parametrize("seed", [2**64, 10**40, -(2**63) - 1])
def test_too_large(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, verb: str, option: str, seed: int
) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(3))
    ran = cli(*command(verb, tmp_path / "s", data, model_dir), f"{option}={seed}")
    assert ran.code == 2, ran.err
    assert option in ran.error_line
    assert "whole number" in ran.error_line or "greater than or equal to 0" in ran.error_line
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_also_of_a_dry_run(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, dry: list[str]) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(3))
    for verb, option in (("featurize", "--adapter-seed"), ("finetune", "--seeds")):
        assert cli(*command(verb, tmp_path / "s", data, model_dir), option, str(2**64), *dry).code == 2


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_the_largest(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """Of a training it has 32 bits: numpy takes no more, and torch on a CPU would take 2**32 for 0."""
    data, store = write_jsonl("d.jsonl", prompt_rows(3)), tmp_path / "s"
    for verb, option in (("featurize", "--seed"), ("featurize", "--adapter-seed"), ("score", "--seed")):
        more = ["--feature", option.strip("-")] if verb == "featurize" else []
        assert cli(*command(verb, store, data, model_dir), option, str(2**64 - 1), *more).code == 0
    seeds = [2**32 - 1, 0]
    assert cli(*command("finetune", store, data, model_dir), "--seeds", ",".join(map(str, seeds))).code == 0
    runs = [open_store(store).get(f"runs/f.s{seed}") for seed in seeds]
    assert [run.spec["seed"] for run in runs] == seeds
    weights = {(store / f"adapters/f.s{seed}/adapter_model.safetensors").read_bytes() for seed in seeds}
    assert len(weights) == len(seeds)
    for option in ("--seed", "--seeds"):
        ran = cli(*command("finetune", store, data, model_dir), option, str(2**32))
        assert ran.code == 2
        assert ran.error_line.endswith("Give a whole number from 0 to 4294967295.")
