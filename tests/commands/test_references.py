"""How files and names are written: names with dots, paths with equals signs and `~`, byte-order marks, moved files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from ntkcli.data import BadRow, DataFile, Row
from ntkcli.data.references import split_name, split_weight
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.conftest import choice_rows, prompt_rows, write_rows


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which is the home folder too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def scored(cli: Cli, home: Path, store: str = "med", pool: str = "pool.jsonl") -> None:
    write_rows(home / "pool.jsonl", prompt_rows(9))
    ran = cli("score", store, "--pool", f"pool={pool}", "--method", "random", "--name", "r")
    assert ran.code == 0, ran.err


def selected(cli: Cli, name: str, *more: str) -> None:
    ran = cli("select", "med", "--score", "r", "-n", "4", "--name", name, *more)
    assert ran.code == 0, ran.err


TINY = ("--epochs", "1", "--rank", "1", "--batch-size", "4")


def test_names_with_dots_are_names(home: Path, cli: Cli, model_dir: Path) -> None:
    """As training rows, --rows, domain, pool and in recipes; a file of that name is given as ./NAME."""
    scored(cli, home)
    selected(cli, "picked.v2")
    ran = cli("finetune", "med", "--model", model_dir, "--train", "picked.v2=0.5", "--name", "w.1", *TINY, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["rows"] == 2
    assert cli("score", "med", "--pool", "pool=pool.jsonl", "--method", "random", "--rows", "picked.v2",
               "--name", "r.2").code == 0  # fmt: skip
    ran = cli("score", "med", "--pool", "d.v1=pool.jsonl", "--method", "random", "--name", "r3")
    assert ran.code == 0, ran.err
    assert cli("score", "med", "--pool", "d.v1", "--method", "random", "--name", "r4").code == 0
    write_rows(home / "picked.v2", prompt_rows(3))
    ran = cli("finetune", "med", "--model", model_dir, "--train", "./picked.v2", "--name", "w2", *TINY)
    assert "picked.v2 is not of a type that can be read" in ran.error_line
    recipe = f'store = "med"\n[[step]]\nverb = "finetune"\nmodel = "{model_dir}"\ntrain = "picked.v2"\nname = "w3"\n'
    (home / "r.toml").write_text(recipe)
    assert cli("run", "r.toml", "--dry-run").code == 0
    (home / "r.toml").write_text(recipe.replace("v2", "v3"))
    assert "picked.v3 does not exist" in cli("run", "r.toml", "--dry-run").error_line


def test_equals_signs_in_paths(home: Path, cli: Cli, model_dir: Path) -> None:
    folder = home / "year=2024"
    folder.mkdir()
    write_rows(folder / "x.jsonl", prompt_rows(6, seed=1))
    write_rows(folder / "t.jsonl", choice_rows(3))
    train = ("finetune", "med", "--model", model_dir, *TINY, "--json", "--train")
    for name, reference, rows in (
        ("a", "year=2024/x.jsonl", 6),
        ("b", "year=2024/x.jsonl=0.5", 3),
        ("c", "year=*/x.jsonl", 6),
        ("d", f"{folder}/x.jsonl=2", 12),
    ):
        ran = cli(*train, reference, "--name", name)
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["rows"] == rows
    ran = cli("score", "med", "--pool", "p=year=2024/x.jsonl", "--method", "random", "--name", "r")
    assert ran.code == 0, ran.err
    ran = cli("score", "med", "--pool", "year=2024/x.jsonl", "--method", "random", "--name", "r2")
    assert "Give --pool NAME=year=2024/x.jsonl" in ran.error_line
    run = ("eval", "med", "--model", model_dir, "--run", "base", "--json", "--task")
    for name, reference in (("e", "year=2024/t.jsonl"), ("f", "t=year=2024/t.jsonl")):
        ran = cli(*run, reference, "--name", name)
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["scores"][0]["task"] == "t"
    assert cli("info", "--data", "year=2024/x.jsonl", "--model", model_dir).code == 0
    assert "no selection or data set of that name" in cli(*train, "year=2023/x.jsonl", "--name", "z").error_line
    assert "'many' is not a valid weight" in cli(*train, "year=2024/x.jsonl=many", "--name", "z").error_line
    steps = [
        {"verb": "score", "pool": "p=year=2024/x.jsonl", "method": "random", "name": "s"},
        {"verb": "finetune", "model": str(model_dir), "train": "year=2024/x.jsonl=0.5", "name": "g"},
        {"verb": "eval", "model": str(model_dir), "run": "g", "task": "t=year=2024/t.jsonl", "name": "h"},
    ]
    text = "".join("[[step]]\n" + "".join(f"{key} = {json.dumps(v)}\n" for key, v in step.items()) for step in steps)
    (home / "r.toml").write_bytes(b"\xef\xbb\xbf" + f'store = "new"\r\n{text}'.encode())
    ran = cli("run", "r.toml")
    assert ran.code == 0, ran.err


def test_how_pairs_are_taken_apart(home: Path) -> None:
    (home / "a=b.jsonl").write_text("")
    (home / "k=1").mkdir()
    assert split_name("x=y.jsonl") == ("x", "y.jsonl")
    assert split_name("x=k=1/y.jsonl") == ("x", "k=1/y.jsonl")
    assert split_name("a=b.jsonl") == (None, "a=b.jsonl")
    assert split_name("x=~/a=b.jsonl") == ("x", "~/a=b.jsonl")
    assert split_name("dir/x=y") == (None, "dir/x=y")
    assert split_name("~/k=1") == (None, "~/k=1")
    assert split_weight("x=0.5") == ("x", "0.5")
    assert split_weight("a=b.jsonl") == ("a=b.jsonl", None)
    assert split_weight("a=b.jsonl=3") == ("a=b.jsonl", "3")
    assert split_weight("~/k=1") == ("~/k=1", None)
    assert split_weight("medmcqa@train:k=1") == ("medmcqa@train:k=1", None)
    assert split_weight("gone=2024/x.jsonl") == ("gone=2024/x.jsonl", None)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_recipe_with_a_byte_order_mark(encoding: str, home: Path, cli: Cli) -> None:
    write_rows(home / "pool.jsonl", prompt_rows(5))
    text = 'store = "med"\n[[step]]\nverb = "score"\npool = "p=pool.jsonl"\nmethod = "random"\nname = "r"\n'
    (home / "r.toml").write_text(text, encoding=encoding)
    ran = cli("run", "r.toml", "--dry-run")
    if encoding == "utf-8-sig":
        assert ran.code == 0, ran.err
    else:
        assert "iconv" in ran.error_line


def test_a_task_file_with_a_byte_order_mark(home: Path, cli: Cli, model_dir: Path) -> None:
    layout = '[[layout]]\nprompt = "{q}"\nchoices = ["yes", "no"]\nanswer = "a"\nlabels = {yes = 0, no = 1}\n'
    (home / "own.toml").write_text(layout, encoding="utf-8-sig")
    write_rows(home / "x.jsonl", [{"q": "Q?", "a": "no"}])
    assert cli("info", "--data", "own.toml:x.jsonl", "--model", model_dir).code == 0


def test_mmlu_with_a_byte_order_mark_and_bytes_of_latin_1(home: Path) -> None:
    (home / "anatomy_test.csv").write_bytes(b"\xef\xbb\xbfQ?,a,b,c,d,B\n" + b"caf\xe9?,a,b,c,d,A\n")
    first, second = DataFile("mmlu-medical:anatomy_test.csv").rows()
    assert isinstance(first, Row)
    assert "\ufeff" not in first.messages[0].content
    assert isinstance(second, BadRow)
    assert "surrogate" in second.reason


def test_a_pool_that_moved(home: Path, cli: Cli, model_dir: Path) -> None:
    scored(cli, home)
    selected(cli, "a")
    (home / "other").mkdir()
    (home / "pool.jsonl").rename(home / "other/moved.jsonl")
    ran = cli("select", "med", "--score", "r", "-n", "4", "--name", "a", "--export", "x.jsonl")
    assert f"The file of the data set 'pool' is gone: {home}/pool.jsonl. " in ran.error_line
    assert "Give its new place: --data pool=FILE" in ran.error_line
    train = ("finetune", "med", "--model", model_dir, "--train", "a", *TINY)
    assert "--data pool=FILE" in cli(*train, "--name", "w").error_line
    write_rows(home / "wrong.jsonl", prompt_rows(9, seed=5))
    ran = cli("select", "med", "--score", "r", "-n", "4", "--name", "a", "--data", "wrong.jsonl")
    assert "holds other rows" in ran.error_line
    assert "no data set 'nothing'" in cli("explain", "med", "a", "0", "--data", "nothing=other/moved.jsonl").error_line
    selected(cli, "a", "--export", "x.jsonl", "--data", "other/moved.jsonl")
    selected(cli, "a", "--export", "x.jsonl")  # it is remembered
    assert len((home / "x.jsonl").read_text().splitlines()) == 4
    for place, command in (
        ("one", ("explain", "med", "a", "0")),
        ("two", (*train, "--name", "w")),
        ("three", ("score", "med", "--pool", "pool", "--method", "bm25", "--domain", "pool", "--name", "b")),
    ):
        now = open_store("med").get("datasets/pool").attrs["source"]
        Path(now).rename(home / f"{place}.jsonl")
        ran = cli(*command, "--data", f"pool={place}.jsonl")
        assert ran.code == 0, ran.err
        assert open_store("med").get("datasets/pool").attrs["source"] == str(home / f"{place}.jsonl")


def test_rows_of_standard_input_move_with_their_store(home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "".join(json.dumps(row) + "\n" for row in prompt_rows(6)).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert cli("score", "med", "--pool", "pool=-", "--method", "random", "--name", "r").code == 0
    (home / "med").rename(home / "moved")
    ran = cli("select", "moved", "--score", "r", "-n", "2", "--name", "a", "--export", "x.jsonl")
    assert ran.code == 0, ran.err


def test_dry_run_of_eval_on_a_new_store(home: Path, cli: Cli, model_dir: Path) -> None:
    write_rows(home / "t.jsonl", choice_rows(3))
    run = ("eval", "new", "--model", model_dir, "--task", "t.jsonl", "--name", "e", "--dry-run")
    ran = cli(*run, "--run", "base", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["rows"] == 3
    assert not (home / "new").exists()
    assert "no finished run" in cli(*run, "--run", "nothing").error_line
    (home / "new").mkdir()
    assert cli(*run, "--run", "base").code == 0
    assert not list((home / "new").iterdir())


def test_home_folders(home: Path, cli: Cli, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in every option that takes a path, also behind NAME= and TASK:, where no shell expands it."""
    (home / "at").mkdir()
    (home / "m").symlink_to(model_dir)
    write_rows(home / "pool.jsonl", prompt_rows(9))
    write_rows(home / "t.jsonl", choice_rows(3))
    (home / "ids.txt").write_text("0-0\n")
    layout = '[[layout]]\nprompt = "{prompt}"\nchoices = "choices"\nanswer = "answer"\nfirst = 0\n'
    (home / "own.toml").write_text(layout)
    (home / "dataset_info.json").write_text('{"p": {"file_name": "pool.jsonl", "columns": {"prompt": "prompt"}}}')
    monkeypatch.chdir(home / "at")
    for command in (
        ("info", "--data", "~/pool.jsonl", "--model", "~/m"),
        ("info", "--data", "~/own.toml:~/t.jsonl", "--model", "~/m"),
        ("score", "~/med", "--pool", "pool=~/pool.jsonl", "--method", "random", "--name", "r"),
        ("featurize", "~/med", "--data", "~/pool.jsonl", "--name", "pool", "--kind", "embed", "--model", "~/m"),
        ("featurize", "~/new", "--data", "~/p*.jsonl", "--name", "p", "--kind", "embed", "--model", "~/m", "--dry-run"),
        ("select", "~/med", "--score", "r", "-n", "3", "--name", "p", "--exclude", "~/ids.txt", "--against",
         "~/t.jsonl", "--export", "~/x.jsonl", "--export-scores", "~/s.parquet", "--data", "pool=~/pool.jsonl"),
        ("select", "~/med", "--score", "r", "-n", "3", "--name", "q", "--must-include", "~/ids.txt"),
        ("finetune", "~/med", "--model", "~/m", "--train", "~/pool.jsonl=0.5", "--train", "p", "--name", "w", *TINY),
        ("finetune", "~/med", "--model", "~/m", "--train", "p", "--init-adapter", "~/med/adapters/w", "--name", "w2",
         "--epochs", "1"),
        ("eval", "~/med", "--model", "~/m", "--run", "~/med/adapters/w", "--task", "t=~/t.jsonl", "--retain",
         "~/own.toml:~/t.jsonl", "--name", "e", "--export", "~/e/items.jsonl"),
        ("arms", "~/med", "--model", "~/m", "--domain", "~/pool.jsonl", "--task", "t=~/t.jsonl", "--arms", "base",
         "--recipe", "~/r.toml"),
        ("run", "~/r.toml", "--dry-run"),
        ("info", "~/med"),
        ("explain", "~/med", "p", "0"),
        ("rm", "~/med", "evals/e/w"),
    ):  # fmt: skip
        ran = cli(*command)
        assert ran.code == 0, (command, ran.err)
    assert (home / "e/items.jsonl").exists()
    assert (home / "x.jsonl").exists()
    assert not list((home / "at").iterdir()), "nothing went to a folder called ~"
