"""Data sets of the Hugging Face Hub, through the library `datasets`: downloaded once, then read from its cache.

`datasets` runs no code from a data set. It is imported when a row is first asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ntkcli.data.formats.columnar import table_records
from ntkcli.data.formats.records import Record
from ntkcli.errors import UsageError

_ID: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<config>[\w.+-]+))?(?:@(?P<revision>[\w./-]+))?"
)
_BATCH_ROWS: Final = 256


class HubSource:
    """The split of a data set, named `org/name[:config][@revision]`, or `FOLDER:config` for a copy of its repository.

    Without `split` it must have one only.
    """

    def __init__(self, reference: str, *, split: str | None) -> None:
        match = _ID.fullmatch(reference)
        self.reference = reference
        if local_config(reference) is not None:
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
        for table in self._dataset.with_format("arrow").iter(_BATCH_ROWS):
            yield from table_records(path, table.to_batches(), first=number)
            number += table.num_rows

    def state(self) -> list[Any]:
        """What tells that the rows are the same as at an earlier time."""
        return [self.reference, self._split, self._dataset._fingerprint]

    @cached_property
    def _dataset(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        where = {"name": self._config, "revision": self._revision}
        try:
            split = self._split
            if split is None:
                split = self._only(datasets.get_dataset_split_names(self._name, self._config, revision=self._revision))
            return datasets.load_dataset(self._name, split=split, **where)
        except UsageError:
            raise
        except Exception as error:  # of a dozen libraries below it
            why = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            if local_config(self.reference) is not None:
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


def is_hub_id(reference: str) -> bool:
    """Whether it has the form of a Hub id, which says nothing about whether there is one."""
    return _ID.fullmatch(reference) is not None
