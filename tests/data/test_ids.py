"""Lists of ids: every form of file gives the same ids; what names nothing is refused or told."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ntkcli.api import score
from ntkcli.data.ids import listed_ids
from ntkcli.errors import NtkselError
from ntkcli.steps.selections.select import Constraints, select
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.stores import open_store
from tests.data.formats import writers
from tests.scoring.kit import add_data

IDS = ["r-0", "r-1", "17", 'a "b", c']
ROWS = [{"id": each, "prompt": f"Q{each}", "completion": "A"} for each in IDS]
BOM = b"\xef\xbb\xbf"


def lines(text: str, *, newline: str = "\n") -> bytes:
    return text.replace("\n", newline).encode()


PLAIN = "".join(f"{each}\n" for each in IDS)
TEXTS: dict[str, bytes] = {
    "lf.txt": lines(PLAIN),
    "no-end": lines(PLAIN.rstrip()),
    "crlf.txt": BOM + lines(PLAIN, newline="\r\n"),
    "cr.txt": lines(PLAIN, newline="\r"),
    "quoted.txt": "".join(json.dumps(each) + "\n" for each in IDS).encode(),
    "blank.lst": lines("\n  r-0 \n\nr-1\t\n17\n" + IDS[3]),
    "packed.txt.gz": gzip.compress(lines(PLAIN)),
    "packed.ids.bz2": bz2.compress(lines(PLAIN)),
    "one.csv": b"id\nr-0\nr-1\n17\n" + b'"a ""b"", c"\n',
    "one-bom.csv": BOM + b"id\r\nr-0\r\nr-1\r\n17\r\n" + b'"a ""b"", c"\r\n',
    "headless.csv": b"r-0\nr-1\n17\n" + b'"a ""b"", c"\n',
    "list.json": json.dumps(["r-0", "r-1", 17, IDS[3]]).encode(),
    "values.jsonl": "".join(json.dumps(each) + "\n" for each in IDS).encode(),
    "objects.json": json.dumps([{"id": each} for each in IDS]).encode(),
    "row-ids.jsonl": "".join(json.dumps({"row_id": each, "x": 1}) + "\n" for each in IDS).encode(),
}


def forms(path: Path) -> list[set[str]]:
    return [set(each.forms) for each in listed_ids(str(path), option="--exclude", columns={}) if each.forms[0] != "id"]


def has_all(path: Path) -> bool:
    found = forms(path)
    return len(found) == len(IDS) and all(each in one for each, one in zip(IDS, found, strict=True))


@pytest.mark.parametrize("name", list(TEXTS))
def test_every_form_of_a_list(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(TEXTS[name])
    assert has_all(tmp_path / name), forms(tmp_path / name)


@pytest.mark.parametrize("name", list(writers.WRITERS))
def test_every_form_of_a_data_file(name: str, tmp_path: Path) -> None:
    writers.WRITERS[name](tmp_path / name, ROWS)
    assert has_all(tmp_path / name)


def test_a_column_of_ids_under_another_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": IDS}), tmp_path / "u.parquet")
    assert has_all(tmp_path / "u.parquet")


REFUSED: list[tuple[str, bytes, str]] = [
    ("broken.jsonl", b'{"id": "r-0"}\n{broken\n', r"line 2: not JSON.*Fix them"),
    ("other.csv", b"a,b\nr-0,1\n", r"neither an id .* nor columns"),
    ("float.jsonl", b'{"id": 1.5}\n', r"the number 1.5"),
    ("json.txt", b' {"id": "r-0"}\n', r"holds JSON.*Rename it"),
    ("utf16.txt", PLAIN.encode("utf-16"), r"UTF-16.*iconv"),
    ("latin.txt", b"caf\xe9\n", r"not UTF-8.*iconv"),
    ("packed.txt", gzip.compress(b"r-0\n", mtime=0), r"is packed.*\.gz"),
    ("zeros.txt", b"r-0\0\n", r"NUL byte"),
]


@pytest.mark.parametrize(("name", "data", "text"), REFUSED)
def test_what_is_no_list_is_refused_with_the_fix(name: str, data: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(NtkselError, match=text):
        forms(tmp_path / name)


def test_a_table_under_another_name_is_refused(tmp_path: Path) -> None:
    writers.parquet(tmp_path / "ids.txt", ROWS)
    with pytest.raises(NtkselError, match=r"is a parquet file.*Rename"):
        forms(tmp_path / "ids.txt")


@pytest.fixture
def chosen(tmp_path: Path) -> Callable[..., list[int]]:
    """The rows that are chosen of nine when a file is excluded; each selection under a name of its own."""
    path, names = tmp_path / "s", iter(range(99))
    add_data(path, "pool", [{"id": f"r-{i}", "prompt": f"Q{i}", "completion": "A"} for i in range(9)])
    score(path, pool="pool", method="random", name="r")

    def choose(**limits: tuple[Path, ...]) -> list[int]:
        name = f"n{next(names)}"
        select(path, score="r", n=3, name=name, constraints=Constraints(**limits))  # type: ignore[arg-type]
        return sorted(open_store(path).get(f"selections/{name}").read("row").tolist())

    return choose


def test_ids_are_left_out_or_taken_first(chosen: Callable[..., list[int]], tmp_path: Path) -> None:
    six = formats_of(tmp_path, [f"r-{i}" for i in (0, 2, 3, 5, 6, 8)])
    for path in six:
        assert chosen(exclude=(path,)) == [1, 4, 7], path
    for path in formats_of(tmp_path, ["r-8", "r-0", "r-5"]):
        assert chosen(must_include=(path,)) == [0, 5, 8], path


def formats_of(folder: Path, ids: list[str]) -> list[Path]:
    pq.write_table(pa.table({"id": ids}), folder / "ids.parquet")
    (folder / "ids.csv").write_text("id,why\n" + "".join(f"{each},x\n" for each in ids))
    (folder / "ids.txt").write_bytes(BOM + "\r\n".join(ids).encode())
    (folder / "ids.json").write_text(json.dumps(ids))
    return [folder / name for name in ("ids.parquet", "ids.csv", "ids.txt", "ids.json")]


def test_unknown_ids_are_told_and_none_known_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    add_data(path, "pool", [{"id": f"r-{i}", "prompt": f"Q{i}", "completion": "A"} for i in range(9)])
    score(path, pool="pool", method="random", name="r")
    (tmp_path / "some.csv").write_text("uid\nr-1\nnothing\n")
    result = select(path, score="r", n=3, name="a", constraints=Constraints(exclude=(tmp_path / "some.csv",)))
    (found,) = result.listed
    assert (found.ids, found.matched, found.unknown, found.headers) == (2, 1, ("nothing",), ("uid",))
    assert found.told() == ("--exclude: 1 of 2 ids are rows of the pool; unknown: 'nothing'; taken as header: 'uid'")
    (tmp_path / "none.csv").write_text("id\nR-1\nR-2\n")
    for option in ("exclude", "must_include"):
        with pytest.raises(NtkselError, match=r"none of its 2 ids is in the pool 'pool': 'R-1', 'R-2'.*such as 'r-0'"):
            select(path, score="r", n=3, name="b", constraints=Constraints(**{option: (tmp_path / "none.csv",)}))  # type: ignore[arg-type]
    with pytest.raises(NtkselError, match="has no row with the id 'nothing'"):
        select(path, score="r", n=3, name="b", constraints=Constraints(must_include=(tmp_path / "some.csv",)))
    assert open_store(path).find("selections/b") is None


def test_rows_without_ids_are_known_by_their_content(tmp_path: Path) -> None:
    """And by the pool's own name for its id column."""
    path = tmp_path / "s"
    rows = [{"uid": f"u{i}", "prompt": f"Q{i}", "completion": "A"} for i in range(5)]
    file = tmp_path / "pool.jsonl"
    writers.jsonl(file, rows)
    stored = open_store(path, create=True)
    register_data(stored, name="content", data=file)
    register_data(stored, name="named", data=file, columns={"id": "uid"})
    writers.parquet(tmp_path / "two.parquet", rows[:2])
    for pool in ("content", "named"):
        score(path, pool=pool, method="random", name=pool)
        result = select(path, score=pool, n=3, name=pool, constraints=Constraints(exclude=(tmp_path / "two.parquet",)))
        assert (result.listed[0].matched, result.listed[0].ids) == (2, 2)
        assert sorted(open_store(path).get(f"selections/{pool}").read("row").tolist()) == [2, 3, 4]
