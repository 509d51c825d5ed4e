"""Files that a user names for a command to write: never over an input, never over what is not ours, with a manifest.

The manifest `<name>.manifest.json` next to a file says that `ntksel` made it, of what, and its checksum. It is written
first, so a command that was killed finds its own file again.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import store
from ntkcli import __version__
from ntkcli.data.hub import local_config
from ntkcli.data.llamafactory import find_entry, is_entry
from ntkcli.data.places import reader_of
from ntkcli.data.references import split_weight
from ntkcli.data.tasks.reference import find_task, names_task
from ntkcli.digests import feed
from ntkcli.errors import UsageError
from ntkcli.paths import home
from store import layout

SUFFIX: Final = ".manifest.json"
_OF_STORE: Final = (layout.STORE_FILE, layout.ARRAYS, layout.TMP, "adapters", "data", "checkpoints", ".lock")
"""What a store's folder holds of its own; `reports` and any other name are free."""


def output_path(path: str | Path) -> Path:
    """Where a path that a user gave leads: `~` expanded, symbolic links followed."""
    return Path(os.path.realpath(home(path)))


def manifest_path(path: str | Path) -> Path:
    """The manifest next to a file or folder."""
    named = Path(home(path))
    return named.with_name(f"{named.name}{SUFFIX}")


@dataclass(frozen=True, slots=True)
class Inputs:
    """References of what a command reads, as its options take them; the folder of a model may hold other files too."""

    data: Sequence[str] = ()
    models: Sequence[str] = ()


def check_output(
    path: str | Path, *, option: str, inputs: Inputs, stored: store.Store | None, force: bool, parents: bool = False
) -> None:
    """UsageError, with nothing made, if a command must not write `path`.

    It must not be an input of the command, or of what the store holds, or a file of the store itself. A file that is
    there has to have a manifest of ours next to it that describes it, unless `force`. The folder has to exist; with
    `parents` it may be made, if it can be.
    """
    target = output_path(path)
    for each in (target, output_path(manifest_path(path))):
        for known in (inputs, *([inputs_of(stored)] if stored else [])):
            for reference in (*known.data, *known.models):
                if why := _clash(each, reference, is_data=reference not in known.models):
                    raise UsageError(f"{option} {path}: {why} the input {reference}.", "Give another name.")
        if (owner := _store_around(each)) is not None:
            raise UsageError(f"{option} {path} is inside the store {owner}.", "Give a path outside of it.")
    _check_folder(path, target, option=option, parents=parents)
    for each in (target, Path(os.path.abspath(manifest_path(path)))):
        if os.path.lexists(each) and not force and not is_ours(path):
            raise UsageError(
                f"{option} {path}: {each.name} exists, and no manifest next to it says that ntksel wrote it as it is.",
                "Give another name, or --force to write over it.",
            )


def manifest_of(path: str | Path) -> dict[str, Any] | None:
    """What a manifest of ours next to a file or folder says; None if there is none."""
    try:
        said = json.loads(manifest_path(path).read_bytes())
    except (OSError, ValueError):
        return None
    ours = isinstance(said, dict) and (str(said.get("made_by", "")).startswith("ntksel") or "selection" in said)
    return said if ours else None


def is_ours(path: str | Path) -> bool:
    """Whether a manifest of ours next to the file or folder describes it as it is now, or is there without it.

    Of a command that was killed before it replaced the file, the manifest describes the file before, too.
    """
    said = manifest_of(path)
    if said is None:
        return False
    target = output_path(path)
    return not os.path.lexists(target) or checksum(target) in {said.get("sha256"), *said.get("replaces", [])}


def write_output(path: str | Path, data: bytes, made: Mapping[str, Any]) -> None:
    """Write a file and its manifest, which says `made`, the version and the checksum. OSError as the disk has it."""
    publish_output(path, lambda place: store.write_bytes(place, data), made, sha256=hashlib.sha256(data).hexdigest())


def publish_output(path: str | Path, publish: Callable[[Path], None], made: Mapping[str, Any], *, sha256: str) -> None:
    """Call `publish` with the place to write; the manifest is whole before and after it."""
    target = output_path(path)
    before = {checksum(target)} if target.exists() else set()
    said = {**made, "made_by": f"ntksel {__version__}", "sha256": sha256}
    _write_manifest(path, {**said, "replaces": sorted(before - {sha256})} if before - {sha256} else said)
    publish(target)
    if before - {sha256}:
        _write_manifest(path, said)


def checksum(path: Path) -> str:
    """SHA-256 of a file, or of a folder's arrow files by name; not of datasets' state.json, which is drawn again."""
    digest = hashlib.sha256()
    for file in [path] if not path.is_dir() else sorted(path.glob("*.arrow")):
        if not file.is_file():
            return ""
        feed(digest, file)
    return digest.hexdigest()


def replace_folder(built: Path, path: Path) -> None:
    """Put the folder `built`, on the same disk, at `path`; what was there goes only when the new one is in place."""
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    if path.is_dir():
        os.rename(path, old)
    try:
        os.rename(built, path)
    except OSError:
        if old.is_dir():
            os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def inputs_of(stored: store.Store, *, on_damage: Callable[[store.DamagedError], None] | None = None) -> Inputs:
    """What a store was made of: data, tasks, training rows; models and adapters.

    The first damaged artefact is raised, or each is given to `on_damage` and left out.
    """
    data: dict[str, None] = {}
    models: dict[str, None] = {}
    for artefact in stored.artefacts(on_damage=on_damage):
        attrs = artefact.attrs
        models |= {str(attrs[key]): None for key in ("model", "adapter") if attrs.get(key)}
        found = [attrs["source"]] if attrs.get("source") else []
        found += attrs.get("inputs", [])
        found += attrs.get("files", []) if artefact.name.startswith("evals/") else []
        found += [text for text in attrs.get("train", []) if not _is_kept(stored, split_weight(text)[0])]
        data |= {split_weight(str(each))[0]: None for each in found}
    return Inputs(tuple(data), tuple(models))


def _is_kept(stored: store.Store, reference: str) -> bool:
    """Whether it names rows of the store."""
    return layout.is_name(reference) and any(
        stored.artefact_path(f"{place}/{reference}").is_dir() for place in ("selections", "datasets")
    )


def _write_manifest(path: str | Path, said: Mapping[str, Any]) -> None:
    text = json.dumps(said, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    store.write_bytes(manifest_path(path), text.encode())


def _check_folder(path: str | Path, target: Path, *, option: str, parents: bool) -> None:
    folder = target.parent
    if not folder.is_dir() and not parents:
        raise UsageError(f"{option} {path}: there is no folder {Path(path).parent}.", "Create it first.")
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{option} {path}: {folder} is not a folder.", "Give another path.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {path}: you may not write to the folder {folder}.", "Give another path.")


def _clash(target: Path, reference: str, *, is_data: bool) -> str:
    """How writing `target` would change what `reference` reads, as the beginning of a sentence; "" if it would not."""
    for place in _places(reference):
        if not glob.has_magic(place) or os.path.lexists(place):
            if why := _with_path(target, Path(place), is_data=is_data):
                return why
        elif _matches(target, place):
            return "it would be one of"
    return ""


def _with_path(target: Path, place: Path, *, is_data: bool) -> str:
    real = Path(os.path.realpath(place))
    if target == real or (target.exists() and real.exists() and os.path.samefile(target, real)):
        return "it is"
    if target.is_dir() and target in real.parents and real.exists():
        return "it holds"
    is_read = target.exists() or (is_data and (not target.suffix or reader_of(target) is not None))
    if real.is_dir() and real in target.parents and is_read:
        return "it would be a part of"
    if real.is_dir() and target.is_file() and _is_linked(target, real):
        return "it is a file of"
    return ""


def _is_linked(target: Path, folder: Path) -> bool:
    """Whether a folder holds the file under another name."""
    if target.stat().st_nlink == 1:
        return False
    return any(path.is_file() and os.path.samefile(path, target) for path in folder.rglob("*"))


def _matches(target: Path, pattern: str) -> bool:
    """Whether a glob finds the file, or would."""
    if target.exists() and any(os.path.samefile(target, each) for each in glob.iglob(pattern, recursive=True)):
        return True
    parts = Path(os.path.abspath(pattern)).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = Path(os.path.realpath(Path(*parts[:fixed])))
    if base not in target.parents:
        return False
    if "**" in parts:
        return fnmatch.fnmatch(target.name, parts[-1])
    names = target.relative_to(base).parts
    return len(names) == len(parts) - fixed and all(map(fnmatch.fnmatch, names, parts[fixed:]))


def _places(reference: str) -> Iterator[str]:
    """The paths that a reference reads; none for a data set or model of the Hub."""
    reference = home(reference)
    if names_task(reference):
        task = find_task(reference)
        yield from (each for each in (task.path, task.name if task.name.endswith(".toml") else "") if each)
    elif is_entry(reference):
        yield reference.rpartition(":")[0]
        entry = find_entry(reference)
        if entry is not None:
            yield entry.reference
    elif (local := local_config(reference)) is not None:
        yield local.rpartition(":")[0]
    elif os.path.lexists(reference) or glob.has_magic(reference) or os.path.isabs(reference):
        yield reference


def _store_around(target: Path) -> Path | None:
    """The store whose own files a path would be among, if any."""
    own = {*_OF_STORE, *(place for place, _ in layout.PLACES.values())}
    for folder in target.parents:
        if (folder / layout.STORE_FILE).is_file() and target.relative_to(folder).parts[0] in own:
            return folder
    return None
