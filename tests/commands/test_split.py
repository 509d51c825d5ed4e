"""`ntksel split`: what says the same stays on one side, nothing is lost or overwritten; and arms look for overlaps."""

from __future__ import annotations

import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntkcli.data import DataFile, Row
from ntkcli.steps.splits.overlap import overlap
from ntkcli.steps.splits.split import split
from tests.commands.conftest import Cli
from tests.conftest import WORDS, Writer, choice_rows, prompt_rows, write_rows


def questions(n: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Different questions of twelve words with one of two answers, a fifth of them yes."""
    draw = random.Random(seed)
    words = [*WORDS, *(f"term{i}" for i in range(40))]
    return [
        {
            "prompt": " ".join(draw.choices(words, k=12)),
            "choices": ["no", "yes"],
            "answer": int(i % 5 == 0),
            "by": i % 9,
        }
        for i in range(n)
    ]


def read(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def test_train_and_test(cli: Cli, tmp_path: Path, write_jsonl: Writer) -> None:
    rows = questions(100)
    rows += [{**rows[7], "prompt": rows[7]["prompt"].upper() + "?!"}, {**rows[9], "answer": 1 - rows[9]["answer"]}]
    data = write_jsonl("exam.jsonl", rows)
    ran = cli("split", data, "--test", ".2", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [(side["name"], Path(side["file"]).name) for side in found["sides"]] == [
        ("train", "exam.train.jsonl"),
        ("test", "exam.test.jsonl"),
    ]
    train, test = (read(side["file"]) for side in found["sides"])
    assert sorted(map(json.dumps, train + test)) == sorted(map(json.dumps, rows))
    assert (len(train), len(test)) == (found["sides"][0]["rows"], found["sides"][1]["rows"])
    assert len(test) in (20, 21)
    assert found["duplicates"] == 4
    assert found["parts"] == 100
    assert sum(row["answer"] for row in test) in (4, 5)  # a fifth, as of all
    for one, other in ((7, 100), (9, 101)):
        assert (rows[one] in test) == (rows[other] in test)
    shown = cli("split", data, "--test", ".2")
    assert shown.code == 0
    assert "there already" in shown.out
    assert "100 parts stay together" in shown.out


def test_the_order_of_rows_does_not_matter_the_seed_does(tmp_path: Path) -> None:
    rows = questions(60)

    def test_side(rows: list[dict[str, Any]], name: str, seed: int = 0) -> set[str]:
        result = split(str(write_rows(tmp_path / f"{name}.jsonl", rows)), test=0.3, seed=seed)
        return set(map(json.dumps, read(result.sides[1].file)))

    usual = test_side(rows, "a")
    assert test_side(rows[::-1], "b") == usual
    assert test_side([{**row, "id": f"other{i}"} for i, row in enumerate(rows)], "c") != usual  # ids are written
    assert test_side(rows, "d", seed=1) != usual
    prompts = {json.loads(row)["prompt"] for row in usual}
    named = split(str(tmp_path / "c.jsonl"), test=0.3)
    assert {row["prompt"] for row in read(named.sides[1].file)} == prompts  # but decide nothing


def test_folds_by_group(cli: Cli, tmp_path: Path, write_jsonl: Writer) -> None:
    rows = questions(90)
    ran = cli("split", write_jsonl("exam.jsonl", rows), "--folds", "3", "--by", "by", "--out", tmp_path / "f", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["groups"] == found["parts"] == 9
    tested: list[str] = []
    for i in (1, 2, 3):
        train, test = (read(tmp_path / "f" / f"exam.fold{i}of3.{side}.jsonl") for side in ("train", "test"))
        assert not {row["by"] for row in train} & {row["by"] for row in test}
        assert sorted(map(json.dumps, train + test)) == sorted(map(json.dumps, rows))
        assert len(test) == 30
        tested += map(json.dumps, test)
    assert sorted(tested) == sorted(map(json.dumps, rows))


def test_by_within_objects_and_rows_without_the_field(tmp_path: Path) -> None:
    rows = [{**row, "meta": {"doc": [7, "7"][i % 2]}} for i, row in enumerate(questions(20))]
    rows += questions(20, seed=9)
    result = split(str(write_rows(tmp_path / "a.jsonl", rows)), test=0.25, by="meta.doc")
    assert (result.groups, result.parts, result.largest) == (1, 21, 20)


FORMS = ["csv", "json", "jsonl.gz", "parquet", "folder", "stdin"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data(form: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sides hold the rows of the file, whatever its form, and the same ones."""
    rows = prompt_rows(30, seed=6)
    write_rows(tmp_path / "plain.jsonl", rows)
    expected = {row["id"] for row in read(split(str(tmp_path / "plain.jsonl"), test=0.3).sides[1].file)}
    path, more = tmp_path / f"rows.{form}", []
    if form == "csv":
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif form == "json":
        path.write_text(json.dumps(rows))
    elif form == "jsonl.gz":
        path.write_bytes(gzip.compress((tmp_path / "plain.jsonl").read_bytes()))
    elif form == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif form == "folder":
        (path := tmp_path / "rows").mkdir()
        write_rows(path / "a.jsonl", rows[:11])
        write_rows(path / "b.jsonl", rows[11:])
    else:
        typed = io.TextIOWrapper(io.BytesIO((tmp_path / "plain.jsonl").read_bytes()))
        monkeypatch.setattr("sys.stdin", typed)
        path, more = Path("-"), ["--out", tmp_path]
    ran = cli("split", path, "--test", ".3", "--json", *more)
    assert ran.code == 0, ran.err
    sides = [read(side["file"]) for side in json.loads(ran.out)["sides"]]
    assert {row["id"] for row in sides[1]} == expected
    assert sorted(row["id"] for side in sides for row in side) == sorted(row["id"] for row in rows)
    stem = "stdin" if form == "stdin" else "rows"
    assert Path(json.loads(ran.out)["sides"][1]["file"]) == tmp_path / f"{stem}.test.jsonl"


HOSTILE = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=60)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(HOSTILE, HOSTILE), min_size=6, max_size=30), st.integers(0, 3))
def test_hostile_text_is_kept_whole_and_its_copies_together(
    tmp_path: Path, texts: list[tuple[str, str]], seed: int
) -> None:
    rows = [{"prompt": f"{i} {a}", "completion": f"{b}."} for i, (a, b) in enumerate(texts)]
    rows += rows[:2]
    data = write_rows(tmp_path / "h.jsonl", rows)
    try:
        result = split(str(data), folds=2, seed=seed, force=True)
    except Exception as error:  # too few parts where all are alike
        assert "parts that stay together" in str(error)  # noqa: PT017
        return
    sides = [[row for row in DataFile(side.file).rows() if isinstance(row, Row)] for side in result.sides]
    contents = [sorted((row.messages[0].content, row.messages[1].content) for row in side) for side in sides]
    assert sorted(contents[0] + contents[1]) == sorted((row["prompt"], row["completion"]) for row in rows)
    assert not set(contents[0]) & set(contents[1])


def test_what_json_can_hardly_say_reads_back(tmp_path: Path) -> None:
    numbers = '"score": -1e999, "more": [1e999, 12345678901234567890]'
    line = f'{{"prompt": "a\\u2028b \\"Infinity\\"", "completion": "c", {numbers}}}'
    path = tmp_path / "a.jsonl"
    path.write_text(f'{line}\n{{"prompt": "x y z", "completion": "w"}}\n', encoding="utf-8")
    result = split(str(path), folds=2)
    found = read(result.sides[0].file) + read(result.sides[1].file)
    assert json.loads(line) in found
    assert all(isinstance(row, Row) for side in result.sides for row in DataFile(side.file).rows())


IMPOSSIBLE = [
    (("--test", ".2", "--folds", "3"), "in one way"),
    ((), "Give --test SHARE"),
    (("--test", "1.5"), "not a share of the rows"),
    (("--test", "nan"), "not a share of the rows"),
    (("--folds", "1"), "too few"),
    (("--folds", "40"), "make 20 parts that stay together"),
    (("--test", ".01"), "less than one row"),
    (("--test", ".2", "--by", "nothing"), "no row has that column. The first has: prompt, choices, answer, by"),
    (("--test", ".2", "--by", "same"), "make 1 parts that stay together (near-duplicates and --by same)"),
    (("--test", ".2", "--out", "{file}"), "is a file"),
    (("--test", ".2", "--out", "{tmp}/no/where"), "there is no folder"),
    (("--test", ".2", "--split", "train"), "is one file"),
]


@pytest.mark.parametrize(("options", "text"), IMPOSSIBLE)
def test_the_impossible_is_refused_and_writes_nothing(
    options: tuple[str, ...], text: str, cli: Cli, tmp_path: Path, write_jsonl: Writer
) -> None:
    data = write_jsonl("a.jsonl", [{**row, "same": 1} for row in questions(20)])
    words = [word.format(file=data, tmp=tmp_path) for word in options]
    before = sorted(tmp_path.rglob("*"))
    ran = cli("split", data, *words)
    assert ran.code == 2, ran.err
    assert text in ran.error_line
    assert sorted(tmp_path.rglob("*")) == before


def test_files_are_never_lost(cli: Cli, tmp_path: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("a.jsonl", questions(20))
    mine = tmp_path / "a.test.jsonl"
    mine.write_text("mine")
    ran = cli("split", data, "--test", ".2")
    assert ran.code == 2
    assert f"{mine} is there already, with other rows" in ran.error_line
    assert "--force" in ran.error_line
    assert mine.read_text() == "mine"
    assert not (tmp_path / "a.train.jsonl").exists()
    assert cli("split", data, "--test", ".2", "--force").code == 0
    assert len(read(mine)) == 4
    (tmp_path / "b").mkdir()
    write_rows(tmp_path / "b" / "rows.jsonl", questions(20))
    ran = cli("split", tmp_path / "b", "--test", ".2", "--out", tmp_path / "b" / "in")
    assert ran.code == 2
    assert "would be a part of" in ran.error_line
    ran = cli("split", f"{tmp_path}/b/*.jsonl", "--test", ".2", "--out", tmp_path / "b")
    assert ran.code == 2
    assert "would be a part of" in ran.error_line
    ran = cli("split", "org/name", "--test", ".2")
    assert ran.code == 2
    assert "Give --out FOLDER" in ran.error_line
    assert not (tmp_path / "b" / "in").exists()


def test_bad_rows(cli: Cli, write_jsonl: Writer) -> None:
    data = write_jsonl("a.jsonl", ["{broken", *questions(20)])
    ran = cli("split", data, "--test", ".2")
    assert ran.code == 1
    assert "a.jsonl line 1" in ran.error_line
    ran = cli("split", data, "--test", ".2", "--on-error", "skip", "--json")
    assert ran.code == 3, ran.err
    assert (json.loads(ran.out)["rows"], json.loads(ran.out)["skipped"]) == (20, 1)


def test_large_parts_are_told(cli: Cli, write_jsonl: Writer) -> None:
    rows = [{**row, "by": i // 15} for i, row in enumerate(questions(30))]
    ran = cli("split", write_jsonl("a.jsonl", rows), "--test", ".1", "--by", "by")
    assert ran.code == 0, ran.err
    assert "a side has 50% of the rows instead of" in ran.err


def test_overlap_counts_items(write_jsonl: Writer) -> None:
    rows = questions(12)
    test = [
        {**rows[0], "prompt": rows[0]["prompt"].upper()},  # the same words
        {**rows[1], "answer": 1 - rows[1]["answer"]},  # the same question, another answer
        {**rows[2], "prompt": " ".join([*rows[2]["prompt"].split() * 3, "new"])},
        *questions(5, seed=7),
    ]
    rows[2] = {**rows[2], "prompt": " ".join(rows[2]["prompt"].split() * 3)}
    found = overlap(DataFile(write_jsonl("d.jsonl", rows)), DataFile(write_jsonl("t.jsonl", test)))
    assert (found.items, found.exact, found.near) == (8, 1, 2)
    assert [place.rpartition(" ")[2] for place in found.places] == ["1", "2", "3"]


def test_a_split_never_overlaps(tmp_path: Path) -> None:
    rows = questions(60)
    draw = random.Random(2)
    rows += [{**row, "prompt": row["prompt"] + "!"} for row in draw.sample(rows, 20)]
    result = split(str(write_rows(tmp_path / "a.jsonl", rows)), test=0.3)
    found = overlap(DataFile(result.sides[0].file), DataFile(result.sides[1].file))
    assert (found.exact, found.near) == (0, 0)


def test_arms_refuse_a_test_set_that_is_trained_on(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    domain = choice_rows(12)
    on = ("arms", tmp_path / "s", "--model", model_dir, "--domain", write_jsonl("d.jsonl", domain), "--task",
          write_jsonl("t.jsonl", [{**row, "id": f"t{i}"} for i, row in enumerate(domain[:3])] + choice_rows(5, seed=3)),
          "--arms", "base,domain", "--dry-run")  # fmt: skip
    ran = cli(*on)
    assert ran.code == 2
    assert "3 of its 8 items are rows of --domain" in ran.error_line
    assert "ntksel split" in ran.error_line
    assert not (tmp_path / "s").exists()
    ran = cli(*on, "--allow-overlap", "--json")
    assert ran.code == 0, ran.err
    (found,) = json.loads(ran.out)["overlap"].values()
    assert (found["items"], found["exact"]) == (8, 3)
    assert "3 of 8 items are rows of the domain" in ran.err
