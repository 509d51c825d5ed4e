"""Places of rows, as files in order: a file, a folder, a glob, a `save_to_disk` folder; or a Hub id. No tasks."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from ntkcli.data.formats.compression import LARGE_BYTES
from ntkcli.data.formats.records import ReadFile, Record
from ntkcli.data.formats.registry import (
    READERS,
    NamedReader,
    known_endings,
    name_of_reader,
    name_of_url_reader,
    url_records,
    url_state,
)
from ntkcli.data.hub import HubSource, configs_of, is_hub_id, local_config
from ntkcli.doors import Made
from ntkcli.errors import DataError, UsageError
from ntkcli.paths import AND
from ntkcli.progress import shown

_SPLITS: Final = {
    "train": "train",
    "test": "test",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}
"""Words in a file's name that say which split it holds, as on the Hub."""
_NO_DATA: Final = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


class Source(Protocol):
    """Rows in an order, to be read again and again. `reference` finds them from any working directory."""

    @property
    def reference(self) -> str:
        """What finds the rows again."""
        ...

    def records(self) -> Iterator[Record]:
        """Every row as its reader finds it."""
        ...

    def state(self) -> list[Any]:
        """JSON values that are equal at two times if the rows are (not the other way round)."""
        ...

    @property
    def plugins(self) -> Made:
        """The readers of other packages that read it, as they stand in a spec."""
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """Files, one after the other."""

    reference: str
    files: tuple[tuple[Path, ReadFile], ...]

    def records(self) -> Iterator[Record]:
        """Every row of every file."""
        if len(self.files) == 1 or sum(path.stat().st_size for path, _ in self.files) < LARGE_BYTES:
            for path, reader in self.files:
                yield from reader(path)
            return
        with shown(f"reading {Path(self.reference).name}", total=len(self.files), unit="files") as advance:
            for path, reader in self.files:
                yield from reader(path)
                advance(1)

    def state(self) -> list[Any]:
        """Path, size, time and inode of the file; of several, a digest of these."""
        states = [state_of(path) for path, _ in self.files]
        if len(states) == 1:
            return states[0]
        return [self.reference, len(states), hashlib.sha256(json.dumps(states).encode()).hexdigest()]

    @property
    def plugins(self) -> Made:
        """Each once."""
        origins = {reader.origin for _, reader in self.files if isinstance(reader, NamedReader)}
        return {name: made for origin in origins if origin is not None for name, made in origin.spec().items()}


@dataclass(frozen=True, slots=True)
class UrlSource:
    """Rows at a URL, by the reader `name`."""

    reference: str
    name: str

    def records(self) -> Iterator[Record]:
        """Every row, as the reader gives them."""
        return url_records(self.name, self.reference)

    def state(self) -> list[Any]:
        """The URL and what the reader knows of its state."""
        return [self.reference, url_state(self.name, self.reference)]

    @property
    def plugins(self) -> Made:
        """The reader's own."""
        origin = READERS.origin(self.name)
        return {} if origin is None else origin.spec()


@dataclass(frozen=True, slots=True)
class SeveralSources:
    """The rows of several places, one after the other."""

    sources: tuple[Source, ...]

    @property
    def reference(self) -> str:
        """All of them."""
        return AND.join(source.reference for source in self.sources)

    def records(self) -> Iterator[Record]:
        """Every row of every place."""
        for source in self.sources:
            yield from source.records()

    def state(self) -> list[Any]:
        """A digest of their states."""
        states = [source.state() for source in self.sources]
        return [self.reference, len(states), hashlib.sha256(json.dumps(states).encode()).hexdigest()]

    @property
    def plugins(self) -> Made:
        """Of all, each once."""
        return {name: made for source in self.sources for name, made in source.plugins.items()}


def find_place(reference: str, *, split: str | None = None) -> Source:
    """The rows at a place. UsageError if there are none, or if `split` is needed or makes no sense."""
    if (name := name_of_url_reader(reference)) is not None:
        if split is not None:
            raise UsageError(f"--split {split}: {reference} is a URL, which has no splits.", "Leave the option out.")
        return UrlSource(reference, name)
    path = Path(reference)
    if (local := local_config(reference)) is not None:
        return HubSource(local, split=split)
    if path.is_dir():
        _refuse_configs(path)
        return FileSource(str(path.resolve()), _folder(path, split))
    if not path.exists() and glob.has_magic(reference):
        return FileSource(str(path.absolute()), _glob(reference, split))
    if not path.exists() and is_hub_id(reference) and reader_of(path) is None:
        return HubSource(reference, split=split)
    reader = checked_reader(path)
    if split is not None:
        raise UsageError(f"--split {split}: {path} is one file, which has no splits.", "Leave the option out.")
    return FileSource(str(path.resolve()), ((path, reader),))


def reader_of(path: Path) -> NamedReader | None:
    """The reader for a file's suffix, if it is known."""
    name = name_of_reader(path)
    return None if name is None else NamedReader(name)


def checked_reader(path: Path) -> ReadFile:
    """The reader for a file that is there. UsageError if it isn't, or is of no known kind."""
    if not path.exists():
        raise UsageError(f"{path} does not exist.", f"Give a file ({known_endings()}), a folder of them or a Hub id.")
    if not path.is_file():
        raise UsageError(
            f"{path} is not a regular file, and rows are read more than once.",
            "Write it to a file, or give - for standard input.",
        )
    reader = reader_of(path)
    if reader is None:
        raise UsageError(f"{path} is not of a type that can be read.", f"Give a file: {known_endings()}.")
    return reader


def _refuse_configs(folder: Path) -> None:
    """A repository that says in its README that it holds several configurations must not be read as one."""
    names = configs_of(folder)
    if len(names) > 1:
        raise UsageError(
            f"{folder} has the configurations {', '.join(names)}.",
            f"Give {folder}:{names[0]}, or the files themselves.",
        )


def _folder(folder: Path, split: str | None) -> tuple[tuple[Path, ReadFile], ...]:
    if (folder / "dataset_dict.json").is_file():
        return _saved(folder / _pick_split(folder, _json(folder / "dataset_dict.json").get("splits"), split))
    if (folder / "state.json").is_file():
        if split is not None:
            raise UsageError(f"--split {split}: {folder} holds one saved data set.", "Leave the option out.")
        return _saved(folder)
    paths = [p for p in sorted(folder.rglob("*")) if _is_data(p.relative_to(folder)) and p.is_file()]
    return _of_split(str(folder), [(p, p.relative_to(folder)) for p in paths], split)


def _glob(pattern: str, split: str | None) -> tuple[tuple[Path, ReadFile], ...]:
    """Files of a glob that was chosen by hand: taken whole, whatever splits the names speak of."""
    paths = [Path(p) for p in sorted(glob.glob(pattern, recursive=True)) if Path(p).is_file() and _is_data(Path(p))]
    if split is not None:
        return _of_split(pattern, [(p, Path(p.name)) for p in paths], split)
    return _readers(pattern, paths)


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.parts if part not in {"..", "."})
    return not hidden and path.name not in _NO_DATA and reader_of(path) is not None


def _of_split(label: str, paths: list[tuple[Path, Path]], split: str | None) -> tuple[tuple[Path, ReadFile], ...]:
    """The files of one split, each with the reader of its suffix."""
    return _readers(label, paths_of_split(label, paths, split))


def paths_of_split(label: str, paths: list[tuple[Path, Path]], split: str | None) -> list[Path]:
    """The files of one split, told by the words in their names (the pairs' second); without such words all."""
    splits = {path: _split_of(name, split) for path, name in paths}
    found = sorted({name for name in splits.values() if name})
    if split is None and len(found) > 1:
        raise UsageError(f"{label} has the splits {', '.join(found)}.", f"Give --split {found[0]}, or a glob.")
    wanted = _SPLITS.get(split or "", split)
    if split is not None and wanted not in found:
        raise UsageError(
            f"--split {split}: {label} has no file of that split.",
            f"Give one of: {', '.join(found)}." if found else "Leave the option out: no file name mentions a split.",
        )
    return [path for path, name in splits.items() if split is None or name == wanted]


def _split_of(name: Path, wanted: str | None) -> str | None:
    words = re.split(r"[/_.\- ]", name.as_posix().lower())
    if wanted is not None and wanted not in _SPLITS and wanted.lower() in words:
        return wanted
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def _readers(label: str, paths: list[Path]) -> tuple[tuple[Path, ReadFile], ...]:
    if not paths:
        raise UsageError(f"{label} has no data file in it.", f"Give files: {known_endings()}.")
    return tuple((path, checked_reader(path)) for path in paths)


def _saved(folder: Path) -> tuple[tuple[Path, ReadFile], ...]:
    """The arrow files of a folder made by `Dataset.save_to_disk`, as its record orders them."""
    entries = _json(folder / "state.json").get("_data_files")
    names = [entry.get("filename") for entry in entries or [] if isinstance(entry, dict)]
    paths = [folder / Path(str(name)).name for name in names]  # names, never paths out of the folder
    if missing := next((path for path in paths if not path.is_file()), None):
        raise DataError(
            f"{folder} is not a complete saved data set: {missing.name} is missing.", "Save or copy it again."
        )
    return _readers(str(folder), paths)


def _pick_split(folder: Path, splits: Any, split: str | None) -> str:
    names = [str(name) for name in splits] if isinstance(splits, list) else []
    wanted = names[0] if split is None and len(names) == 1 else split
    if wanted in names:
        return Path(str(wanted)).name
    told = f"--split {split}: " if split is not None else ""
    raise UsageError(
        f"{told}{folder} has the splits {', '.join(names) or 'none'}.",
        f"Give --split {names[0]}." if names else "Save it again.",
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}.", "Save the data set again.") from error
    return value if isinstance(value, dict) else {}


def state_of(path: Path) -> list[Any]:
    """Path, size, time and inode of a file."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino]
