"""The `zarr.json` documents of a store: what an array is, and reading them without importing zarr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from store import mend
from store.errors import DamagedError, StoreError
from store.layout import NODE_FILE, RECORDS, is_artefact, n_parts

STRING: Final = "string"
Rows = npt.NDArray[Any]


@dataclass(frozen=True)
class ArraySpec:
    """One row-aligned array: shape (n, *tail), `dtype` "string" or as numpy takes it; kept as its name."""

    dtype: Any = "float32"
    tail: tuple[int, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        is_string = self.dtype is str or (isinstance(self.dtype, str) and self.dtype == STRING)
        number = np.dtype(np.bool_ if is_string else self.dtype)
        dtype = STRING if is_string else number.name
        if number.kind not in "biuf" or number.itemsize > 8 or (is_string and self.tail):
            raise StoreError(f"no array of dtype {dtype} and row shape {self.tail}", "use numbers, or strings (n,)")
        if any(size < 1 for size in self.tail):
            raise StoreError(f"row shape {self.tail} has an empty axis", "make every axis at least 1 long")
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "tail", tuple(int(size) for size in self.tail))

    @property
    def is_string(self) -> bool:
        """Whether the rows are strings."""
        return bool(self.dtype == STRING)

    @property
    def numpy(self) -> np.dtype[Any]:
        """The dtype of what is read: little-endian numbers, or objects for strings."""
        return np.dtype(object) if self.is_string else np.dtype(self.dtype).newbyteorder("<")

    @property
    def fill(self) -> Any:
        """What plain Zarr shows for a row that was not written: NaN, 0 or ""."""
        if self.is_string:
            return ""
        return float("nan") if self.numpy.kind == "f" else self.numpy.type(0)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of numbers."""
        return int(np.prod(self.tail, dtype=np.int64)) * self.numpy.itemsize


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """The `zarr.json` of a group, as zarr itself writes it."""
    document = {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}
    return json.dumps(document, indent=2, allow_nan=False).encode()


def array_documents(arrays: Mapping[str, ArraySpec], n: int, part_rows: int) -> dict[str, bytes]:
    """The `zarr.json` of every array, and of the array of records, as zarr itself makes them."""
    from zarr.codecs import Crc32cCodec
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore

    made: dict[str, Buffer] = {}
    memory = MemoryStore(made)
    parts = n_parts(n, part_rows)
    _declare(memory, RECORDS, ArraySpec("uint32"), shape=(parts,), chunks=(1,), compressors=None, dims=(RECORDS,))
    for name, spec in arrays.items():
        _declare(
            memory,
            name,
            spec,
            shape=(n, *spec.tail),
            chunks=(part_rows, *spec.tail),
            compressors=[Crc32cCodec()],
            dims=("row", *(f"{name}_{axis}" for axis in range(1, len(spec.tail) + 1))),
        )
    return {name: made[f"{name}/{NODE_FILE}"].to_bytes() for name in (RECORDS, *arrays)}


def _declare(memory: Any, name: str, spec: ArraySpec, *, dims: tuple[str, ...], **options: Any) -> None:
    import zarr

    zarr.create_array(
        memory,
        name=name,
        dtype=str if spec.is_string else spec.numpy,
        filters="auto" if spec.is_string else None,
        fill_value=spec.fill,
        dimension_names=dims,
        attributes=dict(spec.attrs),
        **options,
    )


def read_group(folder: Path, name: str) -> dict[str, Any]:
    """The attributes of the group at `folder`, artefact `name`; DamagedError if its document is no good."""
    document = _read(folder / NODE_FILE, name)
    attributes = document.get("attributes")
    if document.get("node_type") != "group" or not isinstance(attributes, dict):
        raise _damaged(folder / NODE_FILE, name, "is not the document of a group")
    return attributes


def read_array(folder: Path, name: str, n: int, part_rows: int) -> ArraySpec:
    """The array at `folder`; DamagedError if its document disagrees with `n`, `part_rows` or the format."""
    path = folder / NODE_FILE
    document = _read(path, name)
    try:
        tail = tuple(document["shape"][1:])
        spec = ArraySpec(document["data_type"], tail=tail, attrs=document["attributes"])
        chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
        codecs = [codec["name"] for codec in document["codecs"]]
        endian = document["codecs"][0].get("configuration", {}).get("endian", "little")
    except (AttributeError, LookupError, TypeError, StoreError) as error:
        raise _damaged(path, name, f"describes no array of this format ({error!r})") from error
    expected = ([n, *tail], [part_rows, *tail], [_serializer(spec), "crc32c"], "little")
    found = (document["shape"], chunk, codecs, endian)
    if found != expected:
        raise _damaged(path, name, f"says shape, chunk, codecs, byte order {found}, not {expected}")
    return spec


def _serializer(spec: ArraySpec) -> str:
    return "vlen-utf8" if spec.is_string else "bytes"


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise _damaged(path, name, "is missing") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise _damaged(path, name, f"is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise _damaged(path, name, "is not a JSON object")
    return document


def _damaged(path: Path, name: str, why: str) -> DamagedError:
    what = f"{name} is damaged: {path} {why}"
    return DamagedError(what, mend_of(path, name), artefact=name)


def mend_of(path: Path, name: str) -> str:
    """How to mend the document `path` of the artefact `name`."""
    if not is_artefact(name):
        return "restore it from a copy"
    store = mend.store_of(path)
    return (
        f"restore it from a copy, or give the artefact up: {mend.removing(store, name)} and then "
        f"{mend.making(store, name)} again"
    )
