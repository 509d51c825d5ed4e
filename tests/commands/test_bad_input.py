"""Every mistake: one clear line with what, where and the fix; its exit code; nothing written or lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows

ROWS = prompt_rows(20, seed=1)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def broken(i: int, row: object) -> list[object]:
    return [*ROWS[:i], row, *ROWS[i + 1 :]]


BAD_DATA = {
    "malformed JSON": (broken(16, '{"prompt": "x", '), "line 17", "JSON", "--on-error skip"),
    "no column": (broken(4, {"id": "x", "prompt": "why"}), "line 5", "completion", "--on-error skip"),
    "empty completion": (broken(9, {"prompt": "why", "completion": " "}), "line 10", "completion", "--on-error skip"),
    "number for text": (broken(0, {"prompt": "why", "completion": 3}), "line 1", "completion", ""),
    "forged turn": (
        broken(2, {"prompt": "a<|im_end|>b", "completion": "c"}),
        "line 3",
        "<|im_end|>",
        "--on-error skip",
    ),
}


@pytest.mark.parametrize("what", list(BAD_DATA))
def test_bad_rows(what: str, cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    rows, *expected = BAD_DATA[what]
    data = write_jsonl("data.jsonl", rows)
    command = ["featurize", tmp_path / "s", "--data", data, "--name", "d", "--kind", "embed", "--model", model_dir]
    ran = cli(*command)
    assert ran.code == 1
    for text in (str(data), *expected):
        assert text in ran.error_line
    skipped = cli(*command, "--on-error", "skip", "--json")
    assert skipped.code == 3, skipped.err
    result = json.loads(skipped.out)
    assert (result["rows"], result["skipped"]) == (20, 1)


def test_bad_rows_write_nothing(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    store = tmp_path / "s"
    good = write_jsonl("good.jsonl", ROWS)
    on = ["--kind", "embed", "--model", model_dir]
    assert cli("featurize", store, "--data", good, "--name", "d", *on).code == 0
    before = tree(store)
    bad = write_jsonl("bad.jsonl", broken(16, "{"))
    assert cli("featurize", store, "--data", bad, "--name", "e", *on).code == 1
    assert tree(store) == before


Case = Callable[[Path, Path, Path], list[object]]
USAGE: dict[str, tuple[Case, int, tuple[str, ...]]] = {
    "missing file": (
        lambda s, m, d: ["featurize", s, "--data", "no.jsonl", "--name", "d", "--kind", "embed", "--model", m],
        2,
        ("no.jsonl", "does not exist"),
    ),
    "missing model": (
        lambda s, m, d: ["featurize", s, "--data", d, "--name", "d", "--kind", "embed", "--model", "./none"],
        2,
        ("--model ./none", "no such folder"),
    ),
    "model folder without a model": (
        lambda s, m, d: ["featurize", s, "--data", d, "--name", "d", "--kind", "embed", "--model", d.parent],
        2,
        ("config.json",),
    ),
    "slash in a name": (
        lambda s, m, d: ["featurize", s, "--data", d, "--name", "a/b", "--kind", "embed", "--model", m],
        2,
        ("'a/b'", "letters, digits"),
    ),
    "dots in a name": (
        lambda s, m, d: ["finetune", s, "--train", d, "--name", "..", "--model", m],
        2,
        ("'..'", "letters, digits"),
    ),
    "unknown option": (lambda s, m, d: ["featurize", s, "--colour", "red"], 2, ("--colour",)),
    "no such shard": (
        lambda s, m, d: [
            *("featurize", s, "--data", d, "--name", "d", "--kind", "embed", "--model", m, "--shard", "4/4")
        ],
        2,
        ("--shard 4/4", "0/4"),
    ),
    "no store": (lambda s, m, d: ["info", s], 10, ("holds no ntksel store", "ntksel featurize")),
    "score of nothing": (
        lambda s, m, d: ["score", s, "--pool", "p", "--domain", "d", "--method", "mean", "--name", "x"],
        10,
        ("holds no ntksel store",),
    ),
    "unknown training rows": (
        lambda s, m, d: ["finetune", s, "--train", "nothing", "--name", "r", "--model", m],
        2,
        ("--train nothing", "no such file"),
    ),
    "unknown adapter": (
        lambda s, m, d: [
            *("featurize", s, "--data", d, "--name", "d", "--kind", "ntk", "--model", m, "--adapter", "warm")
        ],
        2,
        ("--adapter warm", "ntksel finetune"),
    ),
    "unknown layer": (
        lambda s, m, d: [
            *("featurize", s, "--data", d, "--name", "d", "--kind", "ntk", "--model", m, "--target-modules", "x_proj")
        ],
        2,
        ("x_proj", "q_proj"),
    ),
    "task without choices": (
        lambda s, m, d: ["eval", s, "--model", m, "--run", "base", "--task", d, "--name", "e", "--scorer", "choices"],
        1,
        ("no choices",),
    ),
}


@pytest.mark.parametrize("what", list(USAGE))
def test_usage(what: str, cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("data.jsonl", ROWS)
    make, code, expected = USAGE[what]
    ran = cli(*make(tmp_path / "s", model_dir, data))
    assert ran.code == code, ran.err
    for text in expected:
        assert text in ran.error_line


def test_empty_file(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    ran = cli("finetune", tmp_path / "s", "--train", tmp_path / "empty.jsonl", "--name", "r", "--model", model_dir)
    assert ran.code == 1
    assert "has no rows" in ran.error_line


def test_folder_that_is_no_store_is_left_alone(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("data.jsonl", ROWS)
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("years of work")
    ran = cli("featurize", folder, "--data", data, "--name", "d", "--kind", "embed", "--model", model_dir)
    assert ran.code == 10
    assert "is not an ntksel store" in ran.error_line
    assert tree(folder) == {"chapter1.tex": b"years of work"}


def test_truncated_rows_are_counted(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("data.jsonl", [{"prompt": "w " * 300, "completion": "yes"}, *ROWS[:3]])
    ran = cli(
        *("featurize", tmp_path / "s", "--data", data, "--name", "d", "--kind", "ntk", "--model", model_dir),
        *("--max-length", "120", "--dim", "64", "--json"),
    )
    assert ran.code == 0
    assert json.loads(ran.out)["truncated"] == 1


class TestWithFeatures:
    @pytest.fixture
    def store(self, cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> Path:
        data = write_jsonl("data.jsonl", ROWS)
        store = tmp_path / "s"
        on = ["--data", data, "--kind", "ntk", "--model", model_dir, "--dim", "64"]
        assert cli("featurize", store, "--name", "d", *on).code == 0
        assert cli("featurize", store, "--name", "p", *on).code == 0
        command = ["score", store, "--pool", "p", "--domain", "d", "--method", "mean", "--name", "x"]
        assert cli(*command).code == 0
        return store

    def test_more_rows_than_the_pool_has(self, cli: Cli, store: Path) -> None:
        before = tree(store)
        ran = cli("select", store, "--score", "x", "-n", "21", "--name", "y")
        assert ran.code == 2
        assert "20 scored rows" in ran.error_line
        assert "from 1 to 20" in ran.error_line
        assert tree(store) == before

    @pytest.mark.parametrize(
        ("change", "field", "flag"),
        [
            (["--dim", "128"], "projection.dim was 64, is now 128", "--dim"),
            (["--dim", "64", "--max-length", "99"], "encoder.max_length was 1024, is now 99", "--max-length"),
            (["--dim", "64", "--positions", "all"], "positions was", "--positions"),
            (["--dim", "64", "--seed", "1"], "projection.seed was 0, is now 1", "--seed"),
            (["--dim", "64", "--adapter-seed", "1"], "adapter.fresh.seed was 0, is now 1", "--adapter-seed"),
        ],
    )
    def test_another_setting_is_refused_by_name(
        self, change: list[str], field: str, flag: str, cli: Cli, store: Path, model_dir: Path
    ) -> None:
        before = tree(store)
        data = store.parent / "data.jsonl"
        ran = cli("featurize", store, "--name", "p", "--data", data, "--kind", "ntk", "--model", model_dir, *change)
        assert ran.code == 12
        assert field in ran.error_line
        assert flag in ran.error_line
        assert tree(store) == before

    def test_other_weights_are_refused(self, cli: Cli, store: Path, other_model_dir: Path) -> None:
        ran = cli(
            *("featurize", store, "--name", "p", "--data", store.parent / "data.jsonl", "--kind", "ntk"),
            *("--model", other_model_dir, "--dim", "64"),
        )
        assert ran.code == 12
        assert "model.weights" in ran.error_line

    def test_other_rows_under_the_same_name_are_refused(
        self, cli: Cli, store: Path, model_dir: Path, write_jsonl: Writer
    ) -> None:
        data = write_jsonl("data.jsonl", ROWS[:-1])
        ran = cli("featurize", store, "--name", "p", "--data", data, "--kind", "ntk", "--model", model_dir)
        assert ran.code == 12
        assert "digest" in ran.error_line
        assert "another --name" in ran.error_line

    def test_unlike_features_do_not_compare(self, cli: Cli, store: Path, model_dir: Path) -> None:
        data = store.parent / "data.jsonl"
        command = ["featurize", store, "--name", "q", "--data", data, "--kind", "ntk", "--model", model_dir]
        assert cli(*command, "--dim", "32").code == 0
        ran = cli("score", store, "--pool", "q", "--domain", "d", "--method", "mean", "--name", "y")
        assert ran.code == 12
        assert "projection.dim is 32 for the pool and 64 for the domain" in ran.error_line

    def test_a_selection_of_another_data_set_is_refused(self, cli: Cli, store: Path) -> None:
        assert cli("select", store, "--score", "x", "-n", "5", "--name", "y").code == 0
        ran = cli("score", store, "--pool", "d", "--method", "random", "--rows", "y", "--name", "z")
        assert ran.code == 12
        assert "'p'" in ran.error_line

    def test_missing_score_lists_what_there_is(self, cli: Cli, store: Path) -> None:
        ran = cli("select", store, "--score", "z", "-n", "5", "--name", "y")
        assert ran.code == 10
        assert "scores/x" in ran.error_line


def test_adapter_of_another_base(
    cli: Cli, tmp_path: Path, model_dir: Path, other_model_dir: Path, write_jsonl: Writer
) -> None:
    data, test = write_jsonl("data.jsonl", ROWS), write_jsonl("test.jsonl", choice_rows(4))
    store = tmp_path / "s"
    assert cli("finetune", store, "--model", model_dir, "--train", data, "--name", "r", "--epochs", "1").code == 0
    for kind in ("ntk", "embed"):
        ran = cli(
            *("featurize", store, "--data", data, "--name", "d", "--kind", kind),
            *("--model", other_model_dir, "--adapter", "r"),
        )
        assert ran.code == 12
        assert "was trained on a base model with weights" in ran.error_line
    ran = cli("eval", store, "--model", other_model_dir, "--run", "r", "--task", test, "--name", "e")
    assert ran.code == 12


def test_a_value_that_is_no_choice_or_number_is_told_in_a_sentence(cli: Cli, tmp_path: Path) -> None:
    command = ("featurize", tmp_path / "s", "--data", "d", "--name", "d", "--model", "m")
    choice = cli(*command, "--kind", "grad")
    line = "error: Invalid value for '--kind': 'grad' is not one of 'ntk', 'loss', 'embed'. See"
    assert (choice.code, choice.error_line) == (2, f"{line} `ntksel COMMAND --help`.")
    number = cli(*command, "--kind", "ntk", "--dim", "many")
    assert number.code == 2
    assert number.error_line.endswith(". See `ntksel COMMAND --help`.")
