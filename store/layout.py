"""Names, kinds, row status and part arithmetic of docs/store-format.md. Pure: touches no disk."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Final

from store.errors import NameInvalidError

FORMAT: Final = "ntksel-store"
VERSION: Final = 1

STORE_FILE: Final = "store.json"
ARRAYS: Final = "arrays.zarr"
TMP: Final = "tmp"
NODE_FILE: Final = "zarr.json"
RECORDS: Final = "part"  # the array of records; no other array may have this name
LOCK: Final = "lock"  # an empty file beside the records, held while a part is put in place

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAME_RULE: Final = "use 1 to 100 letters, digits, '.', '_' or '-', the first a letter or a digit"


class Kind(StrEnum):
    """What an artefact is; the attribute `artefact` of its group."""

    DATASET = "dataset"
    FEATURES = "features"
    SCORE = "score"
    SELECTION = "selection"
    RUN = "run"
    EVAL = "eval"
    TOKENS = "tokens"
    VALIDATION = "validation"
    SWEEP = "sweep"
    DIAGNOSIS = "diagnosis"


PLACES: Final[dict[Kind, tuple[str, int]]] = {  # kind -> (folder, how many names follow it)
    Kind.DATASET: ("datasets", 1),
    Kind.FEATURES: ("features", 2),
    Kind.SCORE: ("scores", 1),
    Kind.SELECTION: ("selections", 1),
    Kind.RUN: ("runs", 1),
    Kind.EVAL: ("evals", 2),
    Kind.TOKENS: ("tokens", 2),
    Kind.VALIDATION: ("validations", 1),
    Kind.SWEEP: ("sweeps", 1),
    Kind.DIAGNOSIS: ("diagnoses", 1),
}


class RowStatus(IntEnum):
    """Why a row has no values, or was cut. From UNREADABLE on it has none."""

    OK = 0
    TRUNCATED = 1
    UNREADABLE = 2
    EMPTY = 3
    UNMASKED = 4
    NON_FINITE = 5

    @property
    def has_values(self) -> bool:
        """Whether the row was computed."""
        return self < RowStatus.UNREADABLE


def status_attrs() -> dict[str, Any]:
    """The attributes of a `status` array, by the CF conventions."""
    return {
        "flag_values": [int(status) for status in RowStatus],
        "flag_meanings": " ".join(status.name.lower() for status in RowStatus),
    }


def is_name(name: str) -> bool:
    """Whether the format allows `name`; no allowed name leaves its folder."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, what: str = "name") -> str:
    """`name`, if the format allows it; NameInvalidError says the rule."""
    if not is_name(name):
        raise NameInvalidError(f"{what} {name!r} is not allowed", _NAME_RULE)
    return name


def kind_of(path: str) -> Kind:
    """The kind of the artefact at `path`, such as "features/pool/ntk"; checks every name in it."""
    folder, *names = path.split("/")
    for kind, (place, depth) in PLACES.items():
        if folder == place and len(names) == depth:
            for name in names:
                check_name(name, f"{kind} name")
            return kind
    shapes = ", ".join("/".join([place, *["NAME"] * depth]) for place, depth in PLACES.values())
    raise NameInvalidError(f"{path!r} is not a valid artefact path", f"use one of {shapes}")


def store_of(path: Path) -> Path:
    """The store that the file or folder `path` under its arrays belongs to."""
    return next((folder.parent for folder in path.parents if folder.name == ARRAYS), path.parent)


def is_artefact(path: str) -> bool:
    """Whether `path` is that of an artefact."""
    try:
        kind_of(path)
    except NameInvalidError:
        return False
    return True


def n_parts(n: int, part_rows: int) -> int:
    """How many parts `n` rows make."""
    return -(-n // part_rows)


def part_bounds(i: int, n: int, part_rows: int) -> tuple[int, int]:
    """The rows [start, stop) of part `i`; IndexError if there is no such part."""
    if not 0 <= i < n_parts(n, part_rows):
        raise IndexError(f"part {i} of {n_parts(n, part_rows)}")
    return i * part_rows, min((i + 1) * part_rows, n)


def row_ranges(parts: Iterable[int], n: int, part_rows: int) -> list[tuple[int, int]]:
    """The rows [start, stop) of ascending `parts`, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for start, stop in (part_bounds(i, n, part_rows) for i in parts):
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))
    return ranges


def say_rows(ranges: list[tuple[int, int]], most: int = 3) -> str:
    """ "rows 0-99, 300-399 and 4 more ranges": for messages, last row included."""
    shown = ", ".join(f"{start}-{stop - 1}" for start, stop in ranges[:most])
    more = len(ranges) - most
    return f"rows {shown}" + (f" and {more} more ranges" if more > 0 else "")
