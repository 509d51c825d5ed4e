"""Data sets of the Hugging Face Hub, through the library `datasets`: downloaded once, then read from its cache.

`datasets` runs no code from a data set. It is imported when a row is first asked for: whether rows have
changed is found out without it.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ntkcli.data.formats.columnar import table_records
from ntkcli.data.formats.records import Record
from ntkcli.doors import Made
from ntkcli.errors import UsageError
from ntkcli.notes import note
from ntkcli.progress import shown

_ID: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<config>[\w.+-]+))?(?:@(?P<revision>[\w./-]+))?"
)
_BATCH_ROWS: Final = 256
_HUB_SECONDS: Final = 10
"""How long the Hub is waited for when only the commit is asked for."""


class HubSource:
    """The split of a data set, named `org/name[:config][@revision]`, or `FOLDER:config` for a copy of its repository.

    Without `split` it must have one only.
    """

    def __init__(self, reference: str, *, split: str | None) -> None:
        match = _ID.fullmatch(reference)
        self.reference = reference
        self._is_local = local_config(reference) is not None
        if self._is_local:
            self._name, _, self._config = reference.rpartition(":")
            self._revision = None
        elif match is not None:
            self._name, self._config, self._revision = match.group("name", "config", "revision")
        else:
            raise ValueError(reference)
        self._split = split

    def records(self) -> Iterator[Record]:
        """Every row, in the order of the split."""
        path, number = Path(self.reference), 0
        with shown(f"reading {self.reference}", total=self._dataset.num_rows, unit="rows") as advance:
            for table in self._dataset.with_format("arrow").iter(_BATCH_ROWS):
                yield from table_records(path, table.to_batches(), first=number)
                number += table.num_rows
                advance(table.num_rows)

    def state(self) -> list[Any]:
        """What tells that the rows are the same as at an earlier time, without loading them where it can be found out.

        Of a copy of a repository its files with size, time and inode; of a Hub id the commit.
        """
        if self._is_local:
            return [self.reference, self._split, _digest_of_folder(Path(self._name))]
        return [self.reference, self._split, self._commit or self._dataset._fingerprint]

    @property
    def plugins(self) -> Made:
        """None: `datasets` reads it."""
        return {}

    @cached_property
    def _commit(self) -> str | None:
        """The commit that the revision stands for: by the Hub; where it can't be reached, the one that is cached."""
        if self._revision and re.fullmatch("[0-9a-f]{40}", self._revision):
            return self._revision
        return self._commit_on_hub or _cached_commit(self._name)

    @cached_property
    def _commit_on_hub(self) -> str | None:
        from huggingface_hub import HfApi

        try:
            return HfApi().dataset_info(self._name, revision=self._revision, timeout=_HUB_SECONDS).sha
        except Exception:  # no connection, by a dozen names; no such data set: loading it says so
            return None

    @cached_property
    def _dataset(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        revision = self._revision if self._is_local else self._commit_on_hub or self._revision
        cache = _other_cache(Path(datasets.config.HF_DATASETS_CACHE))
        where = {"name": self._config, "revision": revision, **cache}
        try:
            split = self._split
            if split is None:
                names = datasets.get_dataset_split_names(self._name, self._config, revision=revision, **cache)
                split = self._only(names)
            return datasets.load_dataset(self._name, split=split, **where)
        except UsageError:
            raise
        except Exception as error:  # of a dozen libraries below it
            why = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            if self._is_local:
                what = f"{self.reference} can't be read by the library datasets: {why}."
                raise UsageError(what, "Check --split, or give its files.") from error
            raise UsageError(
                f"{self.reference} is not a file here, and the Hub doesn't give it: {why}.",
                "Check name and --split, or download it and give its files.",
            ) from error

    def _only(self, splits: list[str]) -> str:
        if len(splits) == 1:
            return splits[0]
        raise UsageError(f"{self.reference} has the splits {', '.join(splits)}.", f"Give --split {splits[0]}.")


def local_config(reference: str) -> str | None:
    """`FOLDER:config` with the folder in full, if the folder is here and has that configuration; else None."""
    head, colon, config = reference.rpartition(":")
    if not colon or not config or Path(reference).exists() or not Path(head).is_dir():
        return None
    return f"{Path(head).resolve()}:{config}" if config in configs_of(Path(head)) else None


def configs_of(folder: Path) -> list[str]:
    """The configurations that a repository's README names in its head; none without one."""
    readme = folder / "README.md"
    if not readme.is_file():
        return []
    head = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    return [] if head is None else re.findall(r"^\s*-?\s*config_name:\s*[\"']?([\w.+-]+)", head[1], re.MULTILINE)


def _other_cache(folder: Path) -> dict[str, str]:
    """A cache for this run as an argument of `datasets`, where its own can't be written; else nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return {}
    except OSError:
        note(f"data sets are not kept: {folder} can't be written. Set HF_HOME to a folder that can be.")
    own = tempfile.mkdtemp(prefix="ntksel-datasets-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return {"cache_dir": own}


def _digest_of_folder(folder: Path) -> str:
    """Of the names, sizes, times and inodes of all files that can be data or say how to read it."""
    states = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts) and path.is_file():
            stat = path.stat()
            states.append([str(name), stat.st_size, stat.st_mtime_ns, stat.st_ino])
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def _cached_commit(name: str) -> str | None:
    """The commit of a data set in the cache of `datasets`; None if there is none, or several."""
    from huggingface_hub import constants

    cache = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
    folder = Path(cache) / name.replace("/", "___")
    commits = {path.name for path in folder.glob("*/*/*") if re.fullmatch("[0-9a-f]{40}", path.name)}
    return commits.pop() if len(commits) == 1 else None


def is_hub_id(reference: str) -> bool:
    """Whether it has the form of a Hub id, which says nothing about whether there is one."""
    return _ID.fullmatch(reference) is not None
