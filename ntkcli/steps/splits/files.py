"""The files of a split: their names, what they must not overwrite, and their bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, Final

import store
from ntkcli.data import DataFile
from ntkcli.data.formats.compression import COMPRESSED
from ntkcli.errors import UsageError
from ntkcli.finite import finite

_INFINITE: Final = "\0infinite"
"""In the place of a number beyond float64 while a row is encoded: no text that was read can hold NUL."""
_LINES_AT_ONCE: Final = 256


def targets(data: str, *, label: str | None, out: str | Path | None, folds: int | None) -> list[tuple[Path, Path]]:
    """The files (train, test) of the split, or of each fold: `rows.train.jsonl`, `rows.fold1of5.test.jsonl`, ...

    Next to a file or a folder; UsageError for other data without `out`.
    """
    path = Path(data)
    if out is None and not path.exists():
        raise UsageError(f"{data} is not a file or folder, so nothing is next to it.", "Give --out FOLDER.")
    folder = path.resolve().parent if out is None else Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file.", "Give a folder.")
    if not folder.resolve().parent.is_dir():
        raise UsageError(f"--out {folder}: there is no folder {folder.resolve().parent}.", "Create it first.")
    stem = label or _label(path)
    numbers = [""] if folds is None else [f".fold{i}of{folds}" for i in range(1, folds + 1)]
    return [(folder / f"{stem}{number}.train.jsonl", folder / f"{stem}{number}.test.jsonl") for number in numbers]


def check_targets(paths: Sequence[Path], *, data: str, file: DataFile) -> None:
    """UsageError if a file to be written would be read as a part of `data` by the next command."""
    given = Path(data)
    for path in paths:
        inside = given.is_dir() and path.resolve().is_relative_to(given.resolve())
        if inside or (not given.exists() and fnmatch(str(path.resolve()), str(Path(file.reference).absolute()))):
            raise UsageError(f"{path} would be a part of {data}.", "Give --out with another folder.")


def write_all(contents: Mapping[Path, Callable[[], Iterator[bytes]]], *, force: bool) -> bool:
    """Write the lines of each file; False, and nothing is written, if all are there with the same bytes.

    A content is asked for its lines up to twice. UsageError, before anything is written, if a file is there with
    others, unless `force`.
    """
    missing = [path for path, lines in contents.items() if not _holds(path, lines())]
    for path in filter(Path.exists, missing):
        if not path.is_file():
            raise UsageError(f"{path} is not a file.", "Give --out with another folder.")
        if not force:
            how = "Give --out with another folder, or --force to replace it."
            raise UsageError(f"{path} is there already, with other rows.", how)
    for path in missing:
        path.parent.mkdir(exist_ok=True)
        store.write_pieces(path, _joined(contents[path]()))
    return bool(missing)


def _holds(path: Path, lines: Iterator[bytes]) -> bool:
    """Whether a file is there with these lines and no others."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return all(file.read(len(piece)) == piece for piece in _joined(lines)) and not file.read(1)


def _joined(lines: Iterator[bytes]) -> Iterator[bytes]:
    while some := list(islice(lines, _LINES_AT_ONCE)):
        yield b"".join(some)


def encode_row(raw: Mapping[str, Any]) -> bytes:
    """The row as a line of JSON, which reads back as the same row."""
    try:
        text = json.dumps(raw, ensure_ascii=False, allow_nan=False)
    except ValueError:  # a number that was too large for float64 when it was read
        text = json.dumps(finite(raw, _written_out), ensure_ascii=False, allow_nan=False)
        text = text.replace(json.dumps(_INFINITE), "1e999").replace(json.dumps(f"-{_INFINITE}"), "-1e999")
    return text.encode() + b"\n"


def _written_out(number: float) -> str | None:
    return None if math.isnan(number) else _INFINITE if number > 0 else f"-{_INFINITE}"


def _label(path: Path) -> str:
    """The name of a file without its suffixes, or of a folder."""
    name = path.resolve().name if path.exists() else "".join(c if c.isalnum() else "-" for c in path.name).strip("-")
    if path.is_dir():
        return name
    for packed in COMPRESSED:
        name = name.removesuffix(packed)
    return Path(name).stem or "rows"
