"""Without a home folder, or with one that can't be written, commands go on; finished ones load nothing."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows, write_rows

ROOT = Path(__file__).parents[2]
README = "---\nconfigs:\n- config_name: law\n  data_files: law/*.jsonl\n- config_name: tax\n  data_files: tax/*\n---\n"


@pytest.fixture(params=["no home", "unwritable home", "unwritable cache", "cache is a file"])
def homeless(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An environment in which nothing can be remembered; /proc can't be written by root either."""
    for name in ("NTKSEL_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if request.param == "no home":

        def unknown(*_: object) -> None:
            raise KeyError("getpwuid(): uid not found: 12345")

        monkeypatch.setattr(pwd, "getpwuid", unknown)
    elif request.param == "unwritable home":
        monkeypatch.setenv("HOME", "/proc/none")
    elif request.param == "unwritable cache":
        monkeypatch.setenv("NTKSEL_CACHE", "/proc/none")
    else:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    return str(request.param)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_commands_go_on(homeless: str, cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data, task = write_jsonl("d.jsonl", prompt_rows(3)), write_jsonl("t.jsonl", choice_rows(3))
    store, model = tmp_path / "s", ["--model", model_dir]
    for command in (
        ["featurize", store, "--data", data, "--name", "d", "--kind", "ntk", "--dim", "64", *model],
        ["score", store, "--pool", "d", "--domain", "d", "--feature", "ntk", "--method", "exact", "--name", "x"],
        ["finetune", store, "--train", data, "--name", "r", "--epochs", "1", *model],
        ["eval", store, "--task", task, "--name", "e", "--run", "r", *model],
    ):
        ran = cli(*command)
        assert ran.code == 0, ran.err
        notes = [line for line in ran.err.splitlines() if "digests are not remembered" in line]
        assert len(notes) == 1
        assert notes[0].endswith("Set NTKSEL_CACHE to a folder that can be written.")
        assert "digests are not remembered" not in cli(*command, "-q").err


def test_a_tilde_without_a_home(homeless: str, cli: Cli, tmp_path: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(3))
    for model in ("~/m", "~nobody-of-this-name/m.gguf"):
        ran = cli("featurize", tmp_path / "s", "--data", data, "--name", "d", "--kind", "embed", "--model", model)
        assert ran.code == 2
        assert f"--model {model}: no such" in ran.error_line


def repository(folder: Path) -> Path:
    """A copy of a Hub repository with a configuration."""
    (folder / "law").mkdir(parents=True)
    (folder / "README.md").write_text(README)
    write_rows(folder / "law" / "train.jsonl", prompt_rows(5))
    return folder


def test_data_sets_without_a_cache(cli: Cli, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("/proc/none"))
    data = f"{repository(tmp_path / 'repository')}:law"
    ran = cli("featurize", tmp_path / "s", "--data", data, "--name", "d", "--kind", "embed", "--model", model_dir)
    assert ran.code == 0, ran.err
    assert "data sets are not kept: /proc/none can't be written. Set HF_HOME" in ran.err


def test_a_finished_command_loads_neither_model_nor_data_set(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    """In a fresh process: it returns at once, and a change of the data is found out all the same."""
    folder = repository(tmp_path / "repository")
    command = ["featurize", tmp_path / "s", "--data", f"{folder}:law", "--name", "d", "--kind", "embed"]
    command += ["--model", model_dir]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    code = (
        "import sys; from ntkcli.app import run; code = run(sys.argv[1:]);"
        "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules))); sys.exit(code)"
    )

    def run() -> tuple[int, list[str]]:
        arguments = [sys.executable, "-c", code, *map(str, command), "--json"]
        ran = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        return ran.returncode, ran.stdout.splitlines()

    assert cli(*command).code == 0
    ended, lines = run()
    assert ended == 0
    assert json.loads(lines[0])["computed"] == 0
    assert lines[1] == "[]"
    write_rows(folder / "law" / "train.jsonl", prompt_rows(5, seed=2))
    assert run()[0] == 12


def test_a_hub_id_is_asked_for_its_commit(
    cli: Cli, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub stands still: nothing is loaded. It moves on: the rows are compared. It is away: the cache's commit."""
    import datasets
    import huggingface_hub

    folder = repository(tmp_path / "repository")
    commits, loaded = ["a" * 40], []
    load = datasets.load_dataset

    class Answer:
        def __init__(self, sha: str) -> None:
            self.sha = sha

    def info(self: object, name: str, *, revision: str | None, timeout: float) -> Answer:
        if not commits:
            raise ConnectionError
        return Answer(commits[-1])

    def load_local(path: str, *, name: str, split: str, revision: str) -> object:
        loaded.append(revision)
        return load(str(folder), "law", split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load_local)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_, **__: ["train"])
    command = [
        "featurize",
        tmp_path / "s",
        "--data",
        "org/pool",
        "--name",
        "d",
        "--kind",
        "embed",
        "--model",
        model_dir,
    ]
    assert cli(*command).code == 0
    assert loaded == ["a" * 40]  # the very commit that is noted
    assert cli(*command).code == 0
    assert len(loaded) == 1
    commits.append("b" * 40)  # the same rows: compared once, then known
    assert [cli(*command).code for _ in range(2)] == [0, 0]
    assert loaded[1:] == ["b" * 40]
    commits.clear()
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub/org___pool/default/0.0.0" / ("b" * 40)).mkdir(parents=True)
    assert cli(*command).code == 0
    assert len(loaded) == 2
    (tmp_path / "hub/org___pool/default/0.0.0" / ("c" * 40)).mkdir()  # which of them, only loading finds out
    assert cli(*command).code == 0
    assert len(loaded) == 3
    files = open_store(tmp_path / "s").get("datasets/d").attrs["files"]
    assert files[-1][:2] == ["org/pool", None]
