"""`ntksel info --verify`, `--repair` and `ntksel rm`: what a user sees and what happens to the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows


@pytest.fixture
def med(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> Path:
    """A run, features of a pool and a domain made with it, a score and a selection."""
    store = tmp_path / "med"
    on = ["--kind", "embed", "--model", model_dir, "--part-rows", "8", "--adapter", "warmup"]
    both = ["--pool", "pool", "--domain", "domain"]
    data = {name: write_jsonl(f"{name}.jsonl", prompt_rows(20, seed=i)) for i, name in enumerate(("pool", "domain"))}
    for command in (
        ["finetune", store, "--model", model_dir, "--train", data["domain"], "--name", "warmup", "--epochs", "1"],
        ["featurize", store, "--data", data["pool"], "--name", "pool", *on],
        ["featurize", store, "--data", data["domain"], "--name", "domain", *on],
        ["score", store, *both, "--method", "cosine", "--feature", "embed", "--name", "s"],
        ["select", store, "--score", "s", "-n", "5", "--name", "c"],
    ):
        assert cli(*command).code == 0
    return store


def tree(store: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(store)): path for path in store.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if "checkpoints" not in name}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_sound_store_verifies(cli: Cli, med: Path) -> None:
    ran = cli("info", med, "--verify")
    assert ran.code == 0
    # features 20 + 20, data set 20 + 20, their tokens 20 + 20, score 20, selection 5, steps 2
    assert "verified: 147 rows in 14 parts, 1 adapters are good; no damage" in ran.out
    assert json.loads(cli("info", med, "--json").out)["verified"] is None
    assert json.loads(cli("info", med, "--verify", "--json").out)["verified"]["findings"] == []


def test_a_damaged_part_is_named_forgotten_and_made_again(cli: Cli, med: Path, tmp_path: Path, model_dir: Path) -> None:
    before = tree(med)
    flip(med / "arrays.zarr/features/pool/embed/embedding/c/1/0")
    ran = cli("info", med, "--verify")
    assert ran.code == 1
    assert "damaged: features/pool/embed is damaged: part 1 (rows 8-15): in array embedding" in ran.out
    assert f"run `ntksel info {med} --repair`" in ran.out
    ran = cli("info", med, "--repair")
    assert ran.code == 0
    assert "repaired: features/pool/embed is damaged: part 1" in ran.out
    assert f"`ntksel featurize {med} --name pool --feature embed ...` again" in ran.out
    on = ["--kind", "embed", "--model", model_dir, "--adapter", "warmup", "--json"]
    again = cli("featurize", med, "--data", tmp_path / "pool.jsonl", "--name", "pool", *on)
    assert json.loads(again.out)["computed"] == 8
    assert tree(med) == before
    assert cli("info", med, "--verify").code == 0


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "ntksel.json"])
@pytest.mark.parametrize("lost", [True, False])
def test_a_damaged_adapter_is_named_and_trained_again(
    cli: Cli, med: Path, tmp_path: Path, model_dir: Path, name: str, lost: bool
) -> None:
    before, path = tree(med), med / "adapters/warmup" / name
    if lost:
        path.unlink()
    elif name == "ntksel.json":
        path.write_text(path.read_text()[:-9])
    else:
        flip(path)
    ran = cli("info", med, "--verify")
    if lost and name == "ntksel.json":  # as after a kill
        assert ran.code == 0
        assert "unfinished: runs/warmup: its adapter is not sealed; run `ntksel finetune" in ran.out
    else:
        assert ran.code == 1
        assert f"damaged: the adapter of runs/warmup is damaged: {path}" in ran.out
        assert cli("info", med, "--repair").code == 0
    train = ["--train", tmp_path / "domain.jsonl", "--name", "warmup", "--epochs", "1"]
    assert cli("finetune", med, "--model", model_dir, *train).code == 0
    assert tree(med) == before
    assert cli("info", med, "--verify").code == 0


def test_rows_that_the_data_set_lacks_are_named(cli: Cli, med: Path) -> None:
    chosen = open_store(med).get("selections/c")
    part = {name: chosen.read(name) for name in chosen.arrays}
    chosen.write_part(0, {**part, "row": part["row"] + 20})
    ran = cli("info", med, "--verify")
    assert ran.code == 1
    assert "selections/c does not fit datasets/pool: it has row" in ran.out
    assert f"run `ntksel rm {med} selections/c` and then run `ntksel select" in ran.out


def test_rm_refuses_while_others_depend_on_it(cli: Cli, med: Path) -> None:
    before = tree(med)
    ran = cli("rm", med, "features/pool/embed")
    assert ran.code == 2
    assert "Nothing is removed: scores/s came from features/pool/embed. Remove these as well" in ran.error_line
    assert cli("rm", med, "scores/s", "scores/none").code == 10
    assert cli("rm", med, "../med").code == 2
    assert tree(med) == before


def test_rm_removes_what_is_made_of_each_other(cli: Cli, med: Path) -> None:
    ran = cli("rm", med, "features/pool/embed", "scores/s", "selections/c", "--json")
    assert ran.code == 0
    said = json.loads(ran.out)
    assert said["dependents"] == []
    names = [artefact["name"] for artefact in json.loads(cli("info", med, "--json").out)["artefacts"]]
    assert [name for name in names if not name.startswith("tokens/")] == [
        "datasets/domain",
        "datasets/pool",
        "features/domain/embed",
        "runs/warmup",
    ]


def test_rm_by_force_leaves_what_was_made_from_it_usable(cli: Cli, med: Path, tmp_path: Path) -> None:
    """Features take the disk: once there is a selection they may go."""
    ran = cli("rm", med, "features/pool/embed", "--force")
    assert ran.code == 0
    assert "; made from it: scores/s" in ran.out
    listed = {each["name"]: each for each in json.loads(cli("info", med, "--json").out)["artefacts"]}
    assert listed["scores/s"]["removed_parents"] == ["features/pool/embed"]
    assert listed["scores/s"]["dependents"] == ["selections/c"]
    assert listed["scores/s"]["stale"] is None
    assert "features/pool/embed (removed)" in cli("info", med).out
    assert cli("select", med, "--score", "s", "-n", "5", "--name", "c", "--export", tmp_path / "c.jsonl").code == 0
    assert cli("info", med, "--verify").code == 0


def test_stale_results_are_refused_and_the_commands_named(cli: Cli, med: Path, tmp_path: Path, model_dir: Path) -> None:
    """What rests on features that have changed since is not used by any verb."""
    both = ["--pool", "pool", "--domain", "domain", "--feature", "embed"]
    assert cli("score", med, *both, "--method", "max", "--name", "again").code == 0
    assert cli("rm", med, "features/pool/embed", "--force").code == 0
    on = ["--kind", "embed", "--model", model_dir, "--max-length", "99"]
    assert cli("featurize", med, "--data", tmp_path / "pool.jsonl", "--name", "pool", *on).code == 0
    for command in (
        ["select", med, "--score", "s", "-n", "5", "--name", "other"],
        ["finetune", med, "--model", model_dir, "--train", "c", "--name", "r"],
        ["featurize", med, "--data", tmp_path / "pool.jsonl", "--name", "pool", *on, "--feature", "f", "--rows", "c"],
        ["score", med, "--pool", "pool", "--rows", "c", "--method", "random", "--name", "t"],
        ["score", med, "--compare", "s", "--compare", "again"],
        ["select", med, "--score", "s", "-n", "5", "--name", "c", "--export", tmp_path / "c.jsonl"],
        ["explain", med, "c", "0"],
    ):
        ran = cli(*command)
        assert ran.code == 12, ran.err
        assert f"run `ntksel rm {med} scores/s` and then `ntksel score {med} --name s ...` again" in ran.error_line
    assert "stale: selections/c rests on scores/s" in cli("info", med).out


def test_a_run_on_rows_that_changed_is_not_evaluated(
    cli: Cli, med: Path, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    """A run of a selection of a score that was made anew; and an eval, a dependant that `rm` knows."""
    task = write_jsonl("t.jsonl", choice_rows(4))
    train = ["--model", model_dir, "--train", "c", "--name", "r", "--epochs", "1", "--rank", "1"]
    evaluate = ["eval", med, "--model", model_dir, "--task", task, "--name", "e", "--run", "r"]
    assert cli("finetune", med, *train).code == 0
    assert cli(*evaluate).code == 0
    ran = cli("rm", med, "runs/r")
    assert ran.code == 2
    assert "evals/e/r came from runs/r" in ran.error_line
    assert "runs/r came from selections/c" in cli("rm", med, "selections/c").error_line
    assert cli("rm", med, "scores/s", "--force").code == 0
    both = ["--pool", "pool", "--domain", "domain", "--feature", "embed"]
    assert cli("score", med, *both, "--method", "max", "--name", "s").code == 0
    ran = cli(*evaluate)
    assert ran.code == 12
    assert f"run `ntksel rm {med} selections/c` and then `ntksel select {med} --name c ...` again" in ran.error_line
    artefacts = json.loads(cli("info", med, "--json").out)["artefacts"]
    stale = [artefact["name"] for artefact in artefacts if artefact["stale"]]
    assert stale == ["selections/c", "runs/r", "evals/e/r"]


def test_rm_of_a_run_takes_its_adapter(cli: Cli, med: Path) -> None:
    assert cli("rm", med, "runs/warmup").code == 2
    assert cli("rm", med, "runs/warmup", "--force").code == 0
    assert not (med / "adapters/warmup").exists()
    assert "runs/warmup" not in tree(med)
    assert not list((med / "tmp").iterdir())


@pytest.mark.parametrize(
    "lost", ["store.json", "arrays.zarr/selections/c/zarr.json", "arrays.zarr/scores/s/part/zarr.json"]
)
def test_lost_descriptions_are_named_and_written_again(cli: Cli, med: Path, lost: str) -> None:
    before = tree(med)
    (med / lost).unlink()
    ran = cli("info", med, "--verify")
    assert ran.code == 1
    assert str(med / lost) in ran.out + ran.err
    assert f"run `ntksel info {med} --repair`, which writes it again" in ran.out + ran.err
    ran = cli("info", med, "--repair")
    assert ran.code == 0
    assert f"{med / lost} is missing" in ran.out
    assert tree(med) == before
    assert cli("info", med, "--verify").code == 0


def test_info_counts_a_run_with_its_adapter(cli: Cli, med: Path) -> None:
    run = next(a for a in json.loads(cli("info", med, "--json").out)["artefacts"] if a["name"] == "runs/warmup")
    folders = (med / "adapters/warmup", med / "arrays.zarr/runs/warmup")
    assert run["size_bytes"] == sum(p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file())


def test_rm_of_what_is_damaged(cli: Cli, med: Path) -> None:
    for lost in ("zarr.json", "part/copy.json"):
        (med / "arrays.zarr/selections/c" / lost).unlink()
    ran = cli("info", med, "--repair")
    assert ran.code == 1
    assert f"`ntksel rm {med} selections/c`" in ran.out
    assert cli("rm", med, "selections/c").code == 0
    assert cli("info", med, "--verify").code == 0
