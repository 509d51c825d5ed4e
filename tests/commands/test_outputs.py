"""No command writes over an input, nor over a file that is not ours without --force; what it refuses leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.conftest import Cli
from tests.conftest import choice_rows, prompt_rows, write_rows

Place = Callable[[Path], str]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def home(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a pool, a store that scored it and data sets made of a folder and of a glob."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "pool.jsonl", prompt_rows(9))
    for name, reference in (("folder", "many"), ("glob", "some/*.jsonl")):
        (tmp_path / reference.partition("/")[0]).mkdir(exist_ok=True)
        write_rows(tmp_path / reference.partition("/")[0] / "a.jsonl", prompt_rows(3))
        assert cli("score", "med", "--pool", f"{name}={reference}", "--method", "random", "--name", name).code == 0
    assert cli("score", "med", "--pool", "pool=pool.jsonl", "--method", "random", "--name", "r").code == 0
    return tmp_path


def linked(home: Path) -> str:
    os.link(home / "pool.jsonl", home / "hard.jsonl")
    return "hard.jsonl"


def pointed(home: Path) -> str:
    (home / "soft.jsonl").symlink_to("pool.jsonl")
    return "soft.jsonl"


def around(home: Path) -> str:
    (home / "here").symlink_to(home)
    return "here/pool.jsonl"


def in_list(home: Path) -> str:
    os.link(home / "many/a.jsonl", home / "linked.jsonl")
    return "linked.jsonl"


def saved(home: Path) -> str:
    """A folder that save_to_disk would have written, with the pool in it."""
    (home / "all").mkdir()
    (home / "all/state.json").write_text("{}")
    os.link(home / "pool.jsonl", home / "all/pool.jsonl")
    return "all/pool.jsonl"


INPUTS: dict[str, tuple[Place, str]] = {
    "itself": (lambda home: "pool.jsonl", "it is the input"),
    "absolute": (lambda home: str(home / "pool.jsonl"), "it is the input"),
    "relative": (lambda home: "many/../pool.jsonl", "it is the input"),
    "hard link": (linked, "it is the input"),
    "soft link": (pointed, "it is the input"),
    "linked folder": (around, "it is the input"),
    "hard link elsewhere": (saved, "it is the input"),
    "in a folder of inputs": (lambda home: "many/a.jsonl", "it would be a part of the input"),
    "beside them": (lambda home: "many/new.jsonl", "it would be a part of the input"),
    "a link of one of them": (in_list, "it is a file of the input"),
    "of a glob": (lambda home: "some/a.jsonl", "it would be one of the input"),
    "matched by a glob": (lambda home: "some/new.jsonl", "it would be one of the input"),
    "of the store": (lambda home: "med/scores/x.jsonl", "inside the store"),
}


@pytest.mark.parametrize("case", list(INPUTS))
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["plain", "force"])
def test_an_input_is_never_written(case: str, force: list[str], home: Path, cli: Cli) -> None:
    place, text = INPUTS[case]
    target = place(home)
    before = tree(home)
    ran = cli("select", "med", "--score", "r", "-n", "3", "--name", "p", "--export", target, *force)
    assert ran.code == 2
    assert text in ran.error_line
    assert tree(home) == before


def test_inputs_of_the_command_are_not_written(home: Path, cli: Cli) -> None:
    (home / "ids.parquet").write_bytes(b"")
    (home / "test.jsonl").write_text("")
    for option, file in (("--exclude", "ids.parquet"), ("--must-include", "ids.parquet"), ("--against", "test.jsonl")):
        for export in ("--export", "--export-scores") if file.endswith(".parquet") else ("--export",):
            ran = cli("select", "med", "--score", "r", "-n", "3", "--name", "p", option, file, export, file, "--force")
            assert ran.code == 2
            assert f"{export} {file}: it is the input {file}" in ran.error_line


@pytest.mark.parametrize("name", ["y.jsonl", "y.parquet", "y"])
def test_what_is_not_ours_needs_force(name: str, home: Path, cli: Cli) -> None:
    command = ("select", "med", "--score", "r", "-n", "3", "--name", "p", "--export", name)
    if name == "y":
        (home / name).mkdir()
        (home / name / "state.json").write_text("{}")
        (home / name / "data.arrow").write_text("mine")
    else:
        (home / name).write_text("mine")
    before = tree(home)
    ran = cli(*command)
    assert ran.code == 2
    assert "no manifest next to it says that ntksel wrote it" in ran.error_line
    assert "--force" in ran.error_line
    assert {path: data for path, data in tree(home).items() if "/med/" not in path} == {
        path: data for path, data in before.items() if "/med/" not in path
    }
    assert cli(*command, "--force").code == 0
    assert cli(*command).code == 0, "what we wrote is ours"
    ours = home / name if name != "y" else next((home / name).glob("*.arrow"))
    with ours.open("ab") as file:
        file.write(b"edited")
    assert cli(*command).code == 2, "and no longer once it was edited"


def test_a_manifest_of_somebody_else_is_kept(home: Path, cli: Cli) -> None:
    (home / "y.jsonl.manifest.json").write_text('{"mine": 1}')
    command = ("select", "med", "--score", "r", "-n", "3", "--name", "p", "--export", "y.jsonl")
    assert "y.jsonl.manifest.json exists" in cli(*command).error_line
    assert (home / "y.jsonl.manifest.json").read_text() == '{"mine": 1}'
    assert not (home / "y.jsonl").exists()


def test_killed_between_manifest_and_file(home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command goes on without --force, first and over an earlier export of ours."""
    import store

    command = ("select", "med", "--score", "r", "--export", "y.jsonl", "-n")
    write = store.write_bytes

    def killed(path: Path, *pieces: bytes) -> None:
        if path.name == "y.jsonl":
            raise KeyboardInterrupt
        write(path, *pieces)

    for number, earlier in (("3", False), ("4", True)):
        assert (home / "y.jsonl").exists() == earlier
        with monkeypatch.context() as patch:
            patch.setattr(store, "write_bytes", killed)
            assert cli(*command, number, "--name", f"p{number}").code == 130
        assert cli(*command, number, "--name", f"p{number}").code == 0
        assert len((home / "y.jsonl").read_text().splitlines()) == int(number)
        assert "replaces" not in json.loads((home / "y.jsonl.manifest.json").read_text())


def test_one_file_for_two_exports_is_refused(home: Path, cli: Cli) -> None:
    both = ("--export", "x.parquet", "--export-scores", "./x.parquet")
    assert "name one file" in cli("select", "med", "--score", "r", "-n", "3", "--name", "p", *both).error_line
    assert not (home / "x.parquet").exists()


@pytest.mark.parametrize("export", ["t.jsonl", "new/deep/../../t.jsonl", "model/config.json", "pool.jsonl"])
def test_eval_keeps_its_inputs_and_makes_no_folder_for_what_it_refuses(
    export: str, home: Path, cli: Cli, model_dir: Path
) -> None:
    write_rows(home / "t.jsonl", choice_rows(3))
    shutil.copytree(model_dir, home / "model")
    before = {path: data for path, data in tree(home).items() if "/med/" not in path}
    command = ("eval", "med", "--model", "model", "--run", "base", "--task", "x=t.jsonl", "--name", "e")
    for force in ([], ["--force"]):
        ran = cli(*command, "--export", export, *force)
        assert ran.code == 2
        assert "the input" in ran.error_line
    assert {path: data for path, data in tree(home).items() if "/med/" not in path} == before
    assert not (home / "new").exists()


def test_eval_exports(home: Path, cli: Cli, model_dir: Path) -> None:
    """Into a folder that is made; again over its own; not over another's; the task file of an earlier eval is safe."""
    write_rows(home / "t.jsonl", choice_rows(3))
    command = ("eval", "med", "--model", model_dir, "--run", "base", "--task", "t.jsonl")
    for name in ("items.jsonl", "totals.json"):
        for _ in range(2):
            ran = cli(*command, "--name", "e", "--export", f"out/{name}")
            assert ran.code == 0, ran.err
        (home / "out" / name).write_text("mine")
        assert cli(*command, "--name", "e", "--export", f"out/{name}").code == 2
        assert (home / "out" / name).read_text() == "mine"
    ran = cli("select", "med", "--score", "r", "-n", "3", "--name", "p", "--export", "t.jsonl", "--force")
    assert "it is the input" in ran.error_line
    (home / "plain").write_text("")
    assert "is not a folder" in cli(*command, "--name", "e", "--export", "plain/x.jsonl").error_line


def test_training_files_are_inputs_from_any_folder(
    home: Path, cli: Cli, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(home / "domain.jsonl", prompt_rows(4, seed=3))
    ran = cli("finetune", "med", "--model", model_dir, "--train", "domain.jsonl=0.5", "--name", "w", "--epochs", "1")
    assert ran.code == 0, ran.err
    monkeypatch.chdir(home / "many")
    export = ("--export", "../domain.jsonl", "--force")
    ran = cli("select", "../med", "--score", "r", "-n", "3", "--name", "p", *export)
    assert "it is the input" in ran.error_line


ARMS = ("arms", "new", "--domain", "d.jsonl", "--task", "t.jsonl", "--arms", "base")


@pytest.mark.parametrize("option", ["--export", "--recipe"])
def test_arms_keeps_its_inputs(option: str, home: Path, cli: Cli, model_dir: Path) -> None:
    write_rows(home / "d.jsonl", prompt_rows(3))
    write_rows(home / "t.jsonl", choice_rows(3))
    (home / "own.json").write_text("mine")
    before = tree(home)
    data = "t.json" if option == "--export" else "t.jsonl"
    os.link(home / "t.jsonl", home / data) if option == "--export" else None
    for target, force, text in ((data, ["--force"], "it is the input"), ("own.json", [], "--force")):
        ran = cli(*ARMS, "--model", model_dir, option, target, *force)
        assert ran.code == 2
        assert text in ran.error_line
    assert {path: data for path, data in tree(home).items() if not path.endswith("t.json")} == before
    if option == "--recipe":
        for force in ([], [], ["--force"]):
            assert cli(*ARMS, "--model", model_dir, "--recipe", "r.toml", *force).code == 0
        with (home / "r.toml").open("a") as file:
            file.write("# my own words\n")
        assert cli(*ARMS, "--model", model_dir, "--recipe", "r.toml").code == 2


def test_a_finished_export_that_became_an_input_is_left_as_it_is(home: Path, cli: Cli, model_dir: Path) -> None:
    """The same commands again, as after a kill: nothing is written and nothing refused; another selection is."""
    select = ("select", "med", "--score", "r", "--name", "p", "--export", "y.jsonl", "-n")
    assert cli(*select, "3").code == 0
    train = ("finetune", "med", "--model", model_dir, "--train", "y.jsonl", "--name", "w", "--epochs", "1")
    assert cli(*train).code == 0
    before = (home / "y.jsonl").stat().st_mtime_ns
    ran = cli(*select, "3")
    assert ran.code == 0, ran.err
    assert "holds these rows already" in ran.err
    assert (home / "y.jsonl").stat().st_mtime_ns == before
    other = ("select", "med", "--score", "r", "--name", "q", "--export", "y.jsonl", "-n", "4", "--force")
    assert "it is the input" in cli(*other).error_line
    assert "it is the input" in cli(*select, "3", "--format", "messages", "--force").error_line
