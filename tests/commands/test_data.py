"""Data of any form through the commands: the same features, columns kept for later steps, splits, thinking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows, save_model
from tests.data.formats import writers

ROWS = prompt_rows(12, seed=3)
OWN = [{"uid": row["id"], "q": row["prompt"], "a": row["completion"]} for row in ROWS]
COLUMNS = ("--columns", "id=uid,prompt=q,completion=a")


def embed(cli: Cli, store: Path, data: Any, model: Path, *more: str, name: str = "d") -> dict[str, Any]:
    ran = cli("featurize", store, "--data", data, "--name", name, "--kind", "embed", "--model", model, "--json", *more)
    assert ran.code == 0, ran.err
    return {**json.loads(ran.out), "notes": ran.err}


def test_formats_give_the_same_features(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    digests = set()
    for i, (name, write) in enumerate(writers.WRITERS.items()):
        write(tmp_path / name, ROWS)
        found = embed(cli, tmp_path / "s", tmp_path / name, model_dir, name=f"d{i}")
        assert "12 rows of" in found["notes"]
        assert "read as prompt/completion" in found["notes"]
        digests.add(found["digest"])
    assert len(digests) == 1


def test_exports_are_read_back_as_the_same_rows(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    """Round trip: what `select` writes, in each container, has one digest and one set of features.

    So have the schemas of trainers, which have no place for ids and labels.
    """
    data, store = tmp_path / "d.jsonl", tmp_path / "s"
    writers.jsonl(data, [row | {"source": "s"} for row in ROWS])
    embed(cli, store, data, model_dir)
    assert cli("score", store, "--pool", "d", "--domain", "d", "--method", "random", "--name", "r").code == 0
    assert cli("select", store, "--score", "r", "-n", "5", "--name", "p").code == 0
    digests: dict[bool, set[str]] = {False: set(), True: set()}
    exports = [("a.jsonl", ()), ("a.parquet", ()), ("saved", ()), ("m.jsonl", ("--format", "messages"))]
    exports += [("p.parquet", ("--format", "prompt-completion")), ("al.jsonl", ("--format", "alpaca"))]
    for i, (name, options) in enumerate(exports):
        out = tmp_path / name
        ran = cli("select", store, "--score", "r", "-n", "5", "--name", "p", "--export", out, *options)
        assert ran.code == 0, ran.err
        digests[bool(options)].add(embed(cli, store, out, model_dir, name=f"d{i}")["digest"])
    assert [len(found) for found in digests.values()] == [1, 1]


def test_columns_hold_for_later_steps(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    store, data, picked = tmp_path / "s", tmp_path / "d.parquet", tmp_path / "picked.jsonl"
    writers.parquet(data, OWN)
    embed(cli, store, data, model_dir, *COLUMNS)
    again = embed(cli, store, data, model_dir)
    assert (again["rows_done"], again["computed"]) == (12, 0)
    assert cli("score", store, "--pool", "d", "--domain", "d", "--method", "random", "--name", "r").code == 0
    assert cli("select", store, "--score", "r", "-n", "3", "--name", "p", "--export", picked).code == 0
    exported = [json.loads(line) for line in picked.read_text().splitlines()]
    assert all({"uid", "q", "a", "ntksel_rank"} == set(row) - {"ntksel_score"} for row in exported)
    trained = cli("finetune", store, "--model", model_dir, "--train", "p", "--name", "r", "--epochs", "1", "--json")
    assert trained.code == 0, trained.err
    assert json.loads(trained.out)["rows"] == 3


def test_a_data_set_refuses_other_columns(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    data = tmp_path / "d.jsonl"
    writers.jsonl(data, OWN)
    embed(cli, tmp_path / "s", data, model_dir, *COLUMNS)
    ran = cli(
        *("featurize", tmp_path / "s", "--data", data, "--name", "d", "--kind", "embed", "--model", model_dir),
        *("--columns", "id=uid,prompt=a,completion=q"),
    )
    assert ran.code == 12
    assert "holds other rows" in ran.error_line


def test_columns_and_splits_of_files_given_to_finetune_and_eval(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    items = [{"q": row["prompt"], "options": row["choices"], "key": row["answer"]} for row in choice_rows(6)]
    writers.delimited(folder / "test.csv", items)
    writers.delimited(folder / "train.csv", items[:2])
    store, columns = tmp_path / "s", ("--columns", "prompt=q,choices=options,answer=key")
    on = ("--model", model_dir, "--json", *columns)
    ran = cli("finetune", store, "--train", folder, "--split", "train", "--name", "r", "--epochs", "1", *on)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["rows"] == 2
    ran = cli("eval", store, "--run", "base", "--task", folder, "--split", "test", "--name", "e", *on)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["items"] == 6


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def test_thinking(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    data, store = write_jsonl("d.jsonl", [{"messages": [{"role": "user", "content": "why?"}]}] * 2), tmp_path / "s"
    ran = cli(
        *("featurize", store, "--data", data, "--name", "d", "--kind", "embed", "--model", model_dir),
        *("--thinking", "off"),
    )
    assert ran.code == 2
    assert "--thinking: the model's chat template has no switch 'enable_thinking'" in ran.error_line
    thinker = save_model(tmp_path / "thinker")
    (thinker / "chat_template.jinja").write_text(THINKING)
    embed(cli, store, data, thinker, "--thinking", "on", "--feature", "f", name="t")
    ran = cli(
        *("featurize", store, "--data", data, "--name", "t", "--kind", "embed", "--model", thinker),
        *("--thinking", "off", "--feature", "f"),
    )
    assert ran.code == 12
    assert "--thinking" in ran.error_line


BAD = [
    (("--data", "org/none"), 2, "org/none is not a file here, and the Hub doesn't give it"),
    (("--data", "absent.parquet"), 2, "absent.parquet does not exist"),
    (("--data", "EMPTY"), 2, "has no data file in it"),
    (("--data", "FILE", "--split", "train"), 2, "is one file, which has no splits"),
    (("--data", "FILE", "--columns", "prompt"), 2, "'prompt' is not a valid KNOWN=OWN"),
    (("--data", "FILE", "--columns", "promt=q"), 2, "no schema has a column 'promt'"),
    (("--data", "FILE", "--columns", "prompt=z"), 1, "and not 'z' as --columns says"),
    (("--data", "BROKEN"), 1, "is not a complete parquet file"),
]


@pytest.mark.parametrize(("options", "code", "message"), BAD)
def test_bad_data(options: tuple[str, ...], code: int, message: str, cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    writers.jsonl(tmp_path / "d.jsonl", ROWS)
    paths = {"EMPTY": tmp_path / "empty", "BROKEN": tmp_path / "broken.parquet", "FILE": tmp_path / "d.jsonl"}
    words = [paths.get(word, word) for word in options]
    ran = cli("featurize", tmp_path / "s", "--name", "d", "--kind", "embed", "--model", model_dir, *words)
    assert ran.code == code, ran.err
    assert message in ran.error_line


def test_info_shows_rows_as_the_model_sees_them(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    data = tmp_path / "d.jsonl"
    hostile = {"prompt": "[red]\x1b[2J", "completion": "yes"}
    writers.jsonl(data, [*OWN, {"uid": "b", "q": "Q", "a": ""}])
    on = ("--data", data, "--model", model_dir)
    ran = cli("info", *on, *COLUMNS, "--rows", "13")
    assert ran.code == 0, ran.err
    prompt, completion = OWN[0]["q"], OWN[0]["a"]
    rendered = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n⟦{completion}<|im_end|>⟧\n"
    assert rendered in ran.out
    assert f"{data} line 13: the column 'completion' is empty" in ran.out
    found = json.loads(cli("info", *on, *COLUMNS, "--rows", "1", "--json").out)
    assert [piece["text"] for piece in found["rows"][0]["pieces"] if piece["supervised"]] == [f"{completion}<|im_end|>"]
    writers.jsonl(data, [hostile])
    shown = cli("info", *on).out
    assert "[red]\\x1b[2J" in shown  # neither markup nor a terminal's command


@pytest.mark.parametrize(
    ("words", "fix"),
    [((), "Give a STORE"), (("s", "--data", "d.jsonl"), "Give a STORE"), (("--data", "d"), "--model")],
)
def test_info_shows_one_thing(words: tuple[str, ...], fix: str, cli: Cli) -> None:
    ran = cli("info", *words)
    assert ran.code == 2
    assert fix in ran.error_line


def test_named_files_are_scored_by_words_without_a_model(cli: Cli, write_jsonl: Writer, tmp_path: Path) -> None:
    law = [{"prompt": f"licence warranty notice {i}", "completion": "copyright"} for i in range(6)]
    other = [{"prompt": f"football score weather {i + 50}", "completion": "sunny"} for i in range(20)]
    pool, domain, store = write_jsonl("pool.jsonl", other + law[:3]), write_jsonl("d.jsonl", law[3:]), tmp_path / "s"
    command = ("score", store, "--pool", f"p={pool}", "--domain", f"d={domain}", "--method", "bm25")
    assert cli(*command, "--name", "x").code == 0
    assert set(open_store(store).get("scores/x").read("score").argsort()[-3:]) == {20, 21, 22}
    by_name = ("score", store, "--pool", "p", "--domain", "d", "--method", "bm25", "--name", "x")
    assert "scores/x is finished already" in cli(*by_name).err
    write_jsonl("pool.jsonl", law)
    changed = cli(*command, "--name", "y")
    assert (changed.code, "holds other rows" in changed.error_line) == (12, True)
    unnamed = cli("score", store, "--pool", pool, "--domain", "d", "--method", "bm25", "--name", "y")
    assert (unnamed.code, f"Give --pool NAME={pool}" in unnamed.error_line) == (2, True)
    no_file = cli("score", store, "--pool", "q=", "--domain", "d", "--method", "bm25", "--name", "y")
    assert (no_file.code, "--pool q= names no file" in no_file.error_line) == (2, True)


def test_bad_rows_of_a_named_file_are_left_out_if_told(cli: Cli, write_jsonl: Writer, tmp_path: Path) -> None:
    pool, store = write_jsonl("pool.jsonl", [*ROWS, '{"prompt":']), tmp_path / "s"
    command = ("score", store, "--pool", f"p={pool}", "--method", "random", "--name", "x")
    failed = cli(*command)
    assert (failed.code, "line 13" in failed.error_line, "--on-error skip" in failed.error_line) == (1, True, True)
    ran = cli(*command, "--on-error", "skip", "--json")
    assert ran.code == 3, ran.err
    assert json.loads(ran.out)["scored"] == 12
