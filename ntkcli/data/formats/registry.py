"""The readers by name: which file endings and URLs each reads, and the door for those of other packages.

Must not import numpy or pyarrow when it is imported, so that `--help` lists the names at no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ntkcli.data.formats.compression import COMPRESSED
from ntkcli.doors import Door, Origin
from ntkcli.errors import DataError, NtkselError, UsageError
from ntkcli.notes import note

if TYPE_CHECKING:
    from ntkcli.data.formats.records import Record


@dataclass(frozen=True, slots=True)
class Url:
    """Rows at URLs of some `schemes` ("sqlite" for sqlite://...).

    `rows(url)` yields them in the same order every time; `state(url)` is a JSON value that is equal at two times if the
    rows are, found without reading them: a version, a count and a time of change.
    """

    schemes: tuple[str, ...]
    rows: Callable[[str], Iterator[Record | Mapping[str, Any]]]
    state: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Reader:
    """A way to read rows.

    `rows(path)` yields the rows of a file whose name ends in one of `endings` (".xlsx", lower case): objects of JSON
    values, or `Record`s where a row's line or its bytes are to be known. `packed`: a compressed file is unpacked by the
    reader itself, so .gz, .bz2 or .zst may follow the ending. `url`: it reads URLs, too or instead.
    """

    rows: Callable[[Path], Iterator[Record | Mapping[str, Any]]] | None = None
    endings: tuple[str, ...] = ()
    packed: bool = False
    url: Url | None = None


def _lines(path: Path) -> Iterator[Record]:
    from ntkcli.data.formats.jsonl import read_lines

    return read_lines(path)


def _json(path: Path) -> Iterator[Record]:
    from ntkcli.data.formats.json_array import read_json

    return read_json(path)


def _csv(path: Path) -> Iterator[Record]:
    from ntkcli.data.formats.delimited import read_csv

    return read_csv(path)


def _tsv(path: Path) -> Iterator[Record]:
    from ntkcli.data.formats.delimited import read_tsv

    return read_tsv(path)


def _parquet(path: Path) -> Iterator[Record]:
    from ntkcli.data.formats.columnar import read_parquet

    return read_parquet(path)


def _arrow(path: Path) -> Iterator[Record]:
    from ntkcli.data.formats.columnar import read_arrow

    return read_arrow(path)


READERS: Final = Door(
    "ntksel.readers",
    Reader,
    thing="reader",
    option="--data",
    builtin={
        "JSONL": Reader(_lines, (".jsonl", ".ndjson"), packed=True),
        "JSON": Reader(_json, (".json",), packed=True),
        "CSV": Reader(_csv, (".csv",), packed=True),
        "TSV": Reader(_tsv, (".tsv",), packed=True),
        "parquet": Reader(_parquet, (".parquet",)),
        "arrow": Reader(_arrow, (".arrow",)),
    },
)


def known_endings() -> str:
    """The endings that can be read, for messages."""
    readers = [entry for _, entry in _entries()]
    packed = [ending for reader in readers if reader.packed for ending in reader.endings]
    plain = [ending for reader in readers if not reader.packed for ending in reader.endings]
    return f"{', '.join(packed)} (also with {', '.join(COMPRESSED)}), {', '.join(plain)}"


def name_of_reader(path: Path) -> str | None:
    """The name of the reader for a file's ending, None if there is none.

    Raises:
        UsageError: two plug-ins read files of this ending.
    """
    name = path.name.lower()
    unpacked = next((name.removesuffix(each) for each in COMPRESSED if name.endswith(each)), None)
    ending = Path(unpacked or name).suffix

    def fits(reader: Reader) -> bool:
        return ending in reader.endings and (reader.packed or unpacked is None)

    return _only(fits, f"{ending} files")


def name_of_url_reader(reference: str) -> str | None:
    """The name of the reader for a URL's scheme, None if there is none, or it is not a URL."""
    scheme, is_url, _ = reference.partition("://")
    if not is_url:
        return None
    return _only(lambda reader: reader.url is not None and scheme.lower() in reader.url.schemes, f"{scheme}:// URLs")


@dataclass(frozen=True, slots=True)
class NamedReader:
    """The reader of this name as a function of a file; an error of a plug-in's own names the file and the row."""

    name: str

    def __call__(self, path: Path) -> Iterator[Record]:
        """Every row of the file."""
        rows = READERS.get(self.name).rows
        if rows is None:
            raise UsageError(f"The reader {self.name!r} reads no files.", "Give a URL.")
        return _as_records(self.name, path, lambda: rows(path))

    @property
    def origin(self) -> Origin | None:
        """The plug-in; None for a built-in reader."""
        return READERS.origin(self.name)


def url_records(name: str, reference: str) -> Iterator[Record]:
    """The rows at a URL."""
    return _as_records(name, Path(reference), lambda: _url(name).rows(reference))


def url_state(name: str, reference: str) -> Any:
    """What tells whether the rows at a URL are the same as at another time."""
    with READERS.blaming(name):
        return _url(name).state(reference)


def _url(name: str) -> Url:
    url = READERS.get(name).url
    if url is None:
        raise UsageError(f"The reader {name!r} reads no URLs.", "Give a file.")
    return url


def _as_records(name: str, path: Path, rows: Callable[[], Iterator[Record | Mapping[str, Any]]]) -> Iterator[Record]:
    """What a plug-in yields, as records. DataError, with the place, for an error of its own."""
    from ntkcli.data.formats.records import ParsedRecord, Record

    if name in READERS.builtin:
        yield from rows()  # type: ignore[misc]  # the built-in ones yield records alone
        return
    number = 0
    try:
        for row in rows():
            number += 1
            yield row if isinstance(row, Record) else ParsedRecord(path, number, row)
    except (NtkselError, OSError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"{path} can't be read after row {number}: the reader {name!r} of {READERS.origin(name)} failed with "
            f"{type(error).__name__}: {error}.",
            "Fix the file, or report it to the author of that package.",
        ) from error


def _only(fits: Callable[[Reader], bool], what: str) -> str | None:
    """The name of the one reader that fits; built-in ones come first."""
    if built_in := next((name for name, reader in READERS.builtin.items() if fits(reader)), None):
        return built_in
    found = [name for name, reader in _entries() if fits(reader)]
    if len(found) > 1:
        both = " and ".join(f"{name!r} of {READERS.origin(name)}" for name in found)
        raise UsageError(f"Two readers read {what}: {both}.", "Uninstall one of the packages.")
    return found[0] if found else None


def _entries() -> list[tuple[str, Reader]]:
    """All readers by name."""
    return [*READERS.builtin.items(), *_plugins(tuple(READERS.names()))]


@lru_cache(maxsize=16)
def _plugins(names: tuple[str, ...]) -> tuple[tuple[str, Reader], ...]:
    """Those of plug-ins. One that can't be loaded is noted and left out: it breaks no other file."""
    found = []
    for name in names:
        if name not in READERS.builtin:
            try:
                found.append((name, READERS.get(name)))
            except UsageError as error:
                note(str(error))
    return tuple(found)
