"""The same rows written in every format, by the libraries that users write them with."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = Sequence[dict[str, Any]]


def jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def json_list(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")


def delimited(path: Path, rows: Rows, delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})


def parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=3)


def arrow_file(path: Path, rows: Rows) -> None:
    table = pa.Table.from_pylist(list(rows))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def arrow_stream(path: Path, rows: Rows) -> None:
    table = pa.Table.from_pylist(list(rows))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def saved(path: Path, rows: Rows) -> None:
    import datasets

    datasets.Dataset.from_list(list(rows)).save_to_disk(path, num_shards=2)


def folder(path: Path, rows: Rows) -> None:
    (path / "deep").mkdir(parents=True)
    parquet(path / "a.parquet", rows[:2])
    jsonl(path / "deep" / "b.jsonl", rows[2:])
    (path / "README.md").write_text("no data")
    (path / ".hidden.jsonl").write_text("no data")


def packed(write: Callable[[Path, Rows], None], pack: Callable[[bytes], bytes]) -> Callable[[Path, Rows], None]:
    def write_packed(path: Path, rows: Rows) -> None:
        write(path, rows)
        path.write_bytes(pack(path.read_bytes()))

    return write_packed


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "data.jsonl": jsonl,
    "data.jsonl.gz": packed(jsonl, gzip.compress),
    "data.jsonl.bz2": packed(jsonl, bz2.compress),
    "data.jsonl.zst": packed(jsonl, zstd),
    "data.ndjson": jsonl,
    "lines.json": jsonl,
    "data.json": json_list,
    "data.json.zst": packed(json_list, zstd),
    "data.csv": delimited,
    "data.csv.gz": packed(delimited, gzip.compress),
    "data.tsv": lambda path, rows: delimited(path, rows, "\t"),
    "data.tsv.bz2": packed(lambda path, rows: delimited(path, rows, "\t"), bz2.compress),
    "data.parquet": parquet,
    "file.arrow": arrow_file,
    "stream.arrow": arrow_stream,
    "saved": saved,
    "folder": folder,
}
