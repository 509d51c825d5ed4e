"""Every format gives the same rows, ids, labels and digest; broken files and rows each give one clear line."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkcli.data import BadRow, DataFile, Row, pick, scan
from ntkcli.data.find_source import names_data
from ntkcli.data.formats import json_array as json_array_module
from ntkcli.errors import DataError, NtkselError, UsageError
from tests.data.formats import writers

PAIRS = [
    {"id": f"r{i}", "source": "s" if i % 2 else "t", "prompt": f'Q{i}, "é"\n{"x" * i}', "completion": f"A\t{i}"}
    for i in range(7)
]
CHOICES = [
    {"id": str(i), "prompt": f"Q{i}", "choices": ["x", 'a "b", c'], "answer": i % 2, "task": "t"} for i in range(5)
]
CHATS = [
    {"messages": [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": "A"}], "dataset": "d"}
    for i in range(5)
]


@pytest.mark.parametrize("name", list(writers.WRITERS))
@pytest.mark.parametrize("rows", [PAIRS, CHOICES, CHATS], ids=["pairs", "choices", "chats"])
def test_formats_give_the_same_digest(tmp_path, name, rows):
    writers.jsonl(tmp_path / "reference.jsonl", rows)
    expected = scan(DataFile(tmp_path / "reference.jsonl"), on_error="fail")
    writers.WRITERS[name](tmp_path / name, rows)
    file = DataFile(tmp_path / name)
    found = scan(file, on_error="fail")
    assert (found.digest, found.schema, list(found.row_ids)) == (
        expected.digest,
        expected.schema,
        list(expected.row_ids),
    )
    assert [found.sources[i] for i in found.source_codes] == [expected.sources[i] for i in expected.source_codes]
    assert file.state() == DataFile(file.reference).state()
    assert [row.index for row in pick(file, [4, 1])] == [1, 4]
    assert [row.messages for row in pick(file, [4, 1])] == [
        row.messages for row in pick(DataFile(tmp_path / "reference.jsonl"), [1, 4])
    ]


@settings(max_examples=30)
@given(texts=st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=4))
def test_any_text_reads_alike_from_text_and_tables(tmp_path_factory, texts):
    """A row is usable in every format or in none, with the same messages."""
    folder = tmp_path_factory.mktemp("data")
    rows = [{"prompt": f"Q{a}", "completion": f"A{b}"} for a, b in texts]
    read = []
    for name in ("data.jsonl", "data.json", "data.csv", "data.parquet"):
        writers.WRITERS[name](folder / name, [{"prompt": "Q", "completion": "A"}, *rows])
        read.append([row.messages if isinstance(row, Row) else None for row in DataFile(folder / name).rows()])
    assert read[0] == read[1] == read[2] == read[3]


def test_values_that_json_lacks_can_be_exported(tmp_path):
    import datetime

    table = pa.table(
        {
            "prompt": ["Q"],
            "completion": ["A"],
            "when": [datetime.date(2024, 1, 2)],
            "score": [float("nan")],
            "image": [b"\0\xff"],
        }
    )
    pq.write_table(table, tmp_path / "d.parquet")
    (row,) = pick(DataFile(tmp_path / "d.parquet"), [0])
    exported = json.loads(json.dumps(row.raw, allow_nan=False))
    assert (exported["when"], exported["score"], exported["image"]) == ("2024-01-02", None, "AP8=")


def test_a_json_list_is_read_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(json_array_module, "_CHUNK_BYTES", 3)
    path = tmp_path / "d.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PAIRS, ensure_ascii=False, indent=2).encode())
    assert [row.raw for row in DataFile(path).rows() if isinstance(row, Row)] == PAIRS


def test_rows_passed_over_are_not_decoded(tmp_path, monkeypatch):
    from ntkcli.data.formats import jsonl

    writers.jsonl(tmp_path / "d.jsonl", PAIRS)
    file = DataFile(tmp_path / "d.jsonl")
    _ = file.schema
    decoded = []
    monkeypatch.setattr(jsonl, "_parse", lambda data: decoded.append(data) or json.loads(data))
    assert [row.row_id for row in pick(file, [5])] == ["r5"]
    assert len(decoded) == 1


def test_folder_of_splits(tmp_path):
    (tmp_path / "data").mkdir()
    writers.parquet(tmp_path / "data/train-00000-of-00002.parquet", PAIRS[:2])
    writers.parquet(tmp_path / "data/train-00001-of-00002.parquet", PAIRS[2:4])
    writers.parquet(tmp_path / "data/val-00000-of-00001.parquet", PAIRS[4:])
    with pytest.raises(UsageError, match=r"has the splits train, validation\. Give --split train"):
        DataFile(tmp_path)
    assert list(scan(DataFile(tmp_path, split="train"), on_error="fail").row_ids) == ["r0", "r1", "r2", "r3"]
    assert list(scan(DataFile(tmp_path, split="validation"), on_error="fail").row_ids) == ["r4", "r5", "r6"]
    with pytest.raises(UsageError, match=r"--split test: .* Give one of: train, validation"):
        DataFile(tmp_path, split="test")
    assert scan(DataFile(f"{tmp_path}/data/train*.parquet"), on_error="fail").n == 4


def test_saved_splits(tmp_path):
    import datasets

    both = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(PAIRS[:3]), "odd": datasets.Dataset.from_list(PAIRS[3:])}
    )
    both.save_to_disk(tmp_path / "d")
    assert scan(DataFile(tmp_path / "d", split="odd"), on_error="fail").n == 4
    with pytest.raises(UsageError, match="has the splits train, odd"):
        DataFile(tmp_path / "d")
    (tmp_path / "d/odd/data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match=r"is not a complete saved data set: data-\S+\.arrow is missing"):
        DataFile(tmp_path / "d", split="odd")


def test_rows_of_several_files_are_named_by_their_file(tmp_path):
    writers.jsonl(tmp_path / "a.jsonl", PAIRS[:2])
    writers.jsonl(tmp_path / "b.jsonl", [PAIRS[0], {"prompt": "Q"}])
    with pytest.raises(DataError) as caught:
        scan(DataFile(tmp_path), on_error="fail")
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert str(caught.value).startswith(f"{b} line 1: the id 'r0' stands already in line 1 of {a}, and 1 more row: ")


def test_hub_id_goes_to_datasets_as_it_is_written(tmp_path, monkeypatch):
    """A local repository of the Hub's layout stands in for the Hub; all parts of the name must arrive."""
    import datasets

    repository = tmp_path / "repository"
    (repository / "data").mkdir(parents=True)
    writers.parquet(repository / "data/train-00000-of-00001.parquet", PAIRS)
    writers.parquet(repository / "data/test-00000-of-00001.parquet", PAIRS[:3])
    load, splits = datasets.load_dataset, datasets.get_dataset_split_names
    asked = []

    def load_local(path, *, name, split, revision):
        asked.append((path, name, split, revision))
        return load(str(repository), split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda path, config, revision: splits(str(repository)))
    file = DataFile("org/pool:config@v1.2", split="test")
    found = scan(file, on_error="fail")
    writers.jsonl(tmp_path / "d.jsonl", PAIRS[:3])
    assert found.digest == scan(DataFile(tmp_path / "d.jsonl"), on_error="fail").digest
    assert asked == [("org/pool", "config", "test", "v1.2")]
    assert file.state() == DataFile("org/pool:config@v1.2", split="test").state()
    with pytest.raises(UsageError, match="org/pool has the splits train, test"):
        list(DataFile("org/pool").rows())


README = """---
license: mit
configs:
- config_name: law
  data_files:
  - split: train
    path: law/train-*.parquet
  - split: test
    path: law/test-*.parquet
- config_name: "all"
  data_files: all.parquet
---
config_name: nonsense
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A copy of a Hub repository: two configurations, one of them with two splits."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository"
    (folder / "law").mkdir(parents=True)
    (folder / "README.md").write_text(README)
    writers.parquet(folder / "law/train-00000-of-00001.parquet", PAIRS[:4])
    writers.parquet(folder / "law/test-00000-of-00001.parquet", PAIRS[4:])
    writers.parquet(folder / "all.parquet", PAIRS)
    return folder


def test_a_copy_of_a_repository_is_read_by_its_configurations(repository, tmp_path, monkeypatch):
    ids = lambda file: list(scan(file, on_error="fail").row_ids)  # noqa: E731
    assert ids(DataFile(f"{repository}:law", split="test")) == ["r4", "r5", "r6"]
    assert ids(DataFile(f"{repository}:law", split="train")) == ["r0", "r1", "r2", "r3"]
    whole = DataFile(f"{repository}:all")
    writers.jsonl(tmp_path / "d.jsonl", PAIRS)
    assert scan(whole, on_error="fail").digest == scan(DataFile(tmp_path / "d.jsonl"), on_error="fail").digest
    monkeypatch.chdir(tmp_path)
    assert DataFile("repository:all").reference == whole.reference  # found from any working directory
    assert DataFile(whole.reference).state() == whole.state()
    assert names_data("repository:all")
    with pytest.raises(UsageError, match="has the splits train, test"):
        list(DataFile(f"{repository}:law").rows())


def test_configurations_are_not_mixed(repository):
    with pytest.raises(UsageError, match=r"has the configurations law, all\. Give \S+/repository:law, or the files"):
        DataFile(repository)
    with pytest.raises(UsageError, match="does not exist"):
        DataFile(f"{repository}:tax")
    assert scan(DataFile(f"{repository}/law/*.parquet"), on_error="fail").n == 7
    (repository / "all.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"repository:all can't be read by the library datasets: .* Check --split"):
        list(DataFile(f"{repository}:all", split="train").rows())


def test_hub_id_while_offline(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"org/none is not a file here, and the Hub doesn't give it: .*Check name and"):
        list(DataFile("org/none", split="train").rows())


def _not_utf8_parquet(path: Path) -> None:
    good, bad = b"Q", b"\xff\xfe"
    prompts = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(good + bad))
    pq.write_table(pa.table({"prompt": prompts, "completion": ["A", "A"]}), path)


HEADER = b"prompt,completion\n"
PARQUET = lambda rows: lambda path: writers.parquet(path, rows)  # noqa: E731
GOOD = {"prompt": "Q", "completion": "A"}
BAD = [
    (
        "cut.jsonl.bz2",
        bz2.compress(json.dumps(GOOD).encode() * 999)[:-9],
        "is not a complete bzip2 file: it breaks off after line",
    ),
    ("no.jsonl.bz2", b"plain", "is not a complete bzip2 file: it breaks off after line 0"),
    ("cut.jsonl.zst", writers.zstd(json.dumps(GOOD).encode() * 999)[:-9], "is not a complete zstandard file"),
    ("no.jsonl.zst", b"plain text", "is not a complete zstandard file: it breaks off after line 0"),
    (
        "cut.csv.gz",
        gzip.compress(HEADER + b"Q,A\n" * 9999)[:-20],
        "is not a complete gzip file: it breaks off after line",
    ),
    ("cut.json.gz", gzip.compress(json.dumps([GOOD] * 9999).encode())[:-20], "is not a complete gzip file"),
    ("no.parquet", b"PAR1", "is not a complete parquet file ("),
    ("text.parquet", b"prompt,completion\nQ,A\n", "is not a complete parquet file ("),
    ("empty.parquet", b"", "is not a complete parquet file ("),
    ("none.parquet", PARQUET([{"prompt": None, "completion": None}]), "row 1 fits no schema"),
    ("null.parquet", PARQUET([GOOD, GOOD | {"prompt": None}]), "row 2: the column 'prompt' holds null, not a string"),
    (
        "number.parquet",
        PARQUET([{"prompt": "Q", "completion": 3}]),
        "row 1: the column 'completion' holds the number 3",
    ),
    ("nul.parquet", PARQUET([GOOD, GOOD | {"prompt": "a\0"}]), "row 2: the column 'prompt' holds a NUL character"),
    ("latin.parquet", _not_utf8_parquet, "row 2: not UTF-8: byte 0xff"),
    ("no.arrow", b"not arrow at all", "is not a complete arrow file ("),
    ("empty.arrow", b"", "is not a complete arrow file ("),
    ("cut.arrow", b"ARROW1\0\0", "is not a complete arrow file ("),
    ("one.json", b'{\n"prompt": "Q",\n"completion": "A"\n}', "holds one object, and rows are read from a list"),
    ("number.json", b"3", "holds neither, and rows are read from a list"),
    ("empty.json", b"", "has no rows"),
    ("none.json", b"[]", "has no rows"),
    (
        "open.json",
        b'[{"prompt": "Q", "completion": "A"}',
        "is not a complete JSON list: after row 1 (the list has no end)",
    ),
    ("cut.json", b'[{"prompt": "Q"}, {"prompt": "Q', "is not a complete JSON list: after row 1 (Unterminated string"),
    ("comma.json", b'[{"prompt": "Q"} {}]', "is not a complete JSON list: after row 1 (no comma or closing bracket"),
    ("more.json", b"[{}] x", "after row 1 (there is more behind the list's end)"),
    ("nan.json", b'[{"prompt": NaN}]', "is not a complete JSON list: after row 0"),
    ("deep.json", b"[" * 100_000, "is not a complete JSON list: after row 0 (nested too deeply"),
    ("utf16.json", "[{}]".encode("utf-16"), "is in UTF-16, and rows are read as UTF-8"),
    ("latin.json", '[{"prompt": "é"}]'.encode("latin-1"), "is not UTF-8"),
    ("strings.json", b'["Q", "A"]', "row 1: the string 'Q', not an object with columns"),
    ("surrogate.json", rb'[{"prompt": "\ud83d", "completion": "A"}]', "row 1: the column 'prompt' holds half a"),
    ("empty.csv", b"", "has no rows"),
    ("header.csv", HEADER, "has no rows"),
    ("twice.csv", b"prompt,prompt\nQ,A\n", "has the column 'prompt' twice in its header"),
    ("names.csv", b"q,a\nQ,A\n", "line 2 fits no schema: it has q, a"),
    ("few.csv", HEADER + b"Q,A\nQ\n", "line 3: it has 1 cells, and the header names 2 columns"),
    ("many.csv", HEADER + b'Q,A\n"Q\n",A,B\n', "line 3: it has 3 cells, and the header names 2 columns"),
    ("empty cell.csv", HEADER + b"Q,A\nQ,\n", "line 3: the column 'completion' is empty"),
    ("latin.csv", HEADER + "Q,A\né,A\n".encode("latin-1"), "line 3: the column 'prompt' is not UTF-8"),
    ("nul.csv", HEADER + b"Q,A\nQ\0,A\n", "line 3: the column 'prompt' holds a NUL character"),
    ("quote.csv", HEADER + b'Q,"A\n', "line 2 is not a valid delimited row: unexpected end of data"),
    ("quote inside.csv", HEADER + b'Q,"A"x\n', "line 2 is not a valid delimited row: "),
    ("utf16.csv", "prompt,completion\n".encode("utf-16"), "is in UTF-16"),
    ("choices.csv", b'prompt,choices,answer\nQ,"[1, ""x""]",x\n', "line 2: choice 0 in 'choices' holds the number 1"),
    (
        "no list.csv",
        b"prompt,choices,answer\nQ,x,x\n",
        "the column 'choices' holds the string 'x', not a list of strings",
    ),
    ("broken list.csv", b"prompt,choices,answer\nQ,[x,x\n", "which is not a JSON list of strings"),
    ("index.csv", b'prompt,choices,answer\nQ,"[""x""]",1\n', "line 2: the column 'answer' holds 1, but the choices"),
    ("data.txt", b"Q", "is not of a type that can be read"),
    ("data.parquet.gz", b"Q", "is not of a type that can be read"),
]


@pytest.mark.parametrize(("name", "content", "reason"), BAD, ids=[case[0] for case in BAD])
def test_bad_file(tmp_path, name, content, reason):
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    with pytest.raises(NtkselError) as caught:
        scan(DataFile(path), on_error="fail")
    message = str(caught.value)
    assert message.startswith(str(path))
    assert reason in message
    assert message.isprintable()
    assert caught.value.fix


def test_bad_rows_of_a_table_can_be_skipped(tmp_path):
    _not_utf8_parquet(tmp_path / "d.parquet")
    found = scan(DataFile(tmp_path / "d.parquet"), on_error="skip")
    assert (found.n, found.n_bad, found.bad[0].line, found.bad[0].unit) == (2, 1, 2, "row")
    assert [type(row) for row in DataFile(tmp_path / "d.parquet").rows()] == [Row, BadRow]


def test_a_folder_without_data(tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(UsageError, match="has no data file in it"):
        DataFile(tmp_path)
    with pytest.raises(UsageError, match="has no data file in it"):
        DataFile(f"{tmp_path}/*.parquet")
    writers.jsonl(tmp_path / "d.jsonl", PAIRS)
    with pytest.raises(UsageError, match="is one file, which has no splits"):
        DataFile(tmp_path / "d.jsonl", split="train")
