"""The `zarr.json` documents of a store: what an array is, and reading them without importing zarr."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from store.errors import DamagedError, StoreError
from store.fix import Fix, giving_up, rewriting
from store.layout import ARRAYS, NODE_FILE, RECORDS, is_artefact, n_parts, store_of

STRING: Final = "string"
COPY: Final = f"{RECORDS}/copy.json"
_KEYS: Final = {
    "group": {"attributes", "zarr_format", "node_type"},
    "array": {
        *("shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs", "attributes"),
        *("dimension_names", "zarr_format", "node_type", "storage_transformers"),
    },
}
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

    @functools.cached_property
    def numpy(self) -> np.dtype[Any]:
        """The dtype of what is read: little-endian numbers, or objects for strings."""
        return np.dtype(object) if self.is_string else np.dtype(self.dtype).newbyteorder("<")

    @property
    def fill(self) -> Any:
        """What plain Zarr shows for a row that was not written: NaN, 0 or ""."""
        if self.is_string:
            return ""
        return float("nan") if self.numpy.kind == "f" else self.numpy.type(0)

    @classmethod
    def of_declaration(cls, said: Mapping[str, Any]) -> Self:
        """The array that `declaration` describes."""
        return cls(said["dtype"], tuple(said["row_shape"]), attrs=said["attributes"])

    def declaration(self) -> dict[str, Any]:
        """What the artefact's attributes say of it, as JSON: all that its document depends on beside n and parts."""
        return {"dtype": self.dtype, "row_shape": list(self.tail), "attributes": dict(self.attrs)}

    @functools.cached_property
    def row_bytes(self) -> int:
        """Bytes of one row of numbers."""
        return int(np.prod(self.tail, dtype=np.int64)) * self.numpy.itemsize


_RECORD: Final = ArraySpec("uint32")
_BYTES: Final = {"endian": "little"}  # what numbers are written in; documents of one byte wide ones may leave it out


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """The `zarr.json` of a group, as zarr itself writes it."""
    document = {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}
    return json.dumps(document, indent=2, allow_nan=False).encode()


def array_documents(arrays: Mapping[str, ArraySpec], n: int, part_rows: int) -> dict[str, bytes]:
    """The `zarr.json` of every array, and of the array of records, as zarr itself makes them."""
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore

    made: dict[str, Buffer] = {}
    memory = MemoryStore(made)
    _declare(memory, RECORDS, _RECORD, shape=(n_parts(n, part_rows),), chunks=(1,), dims=(RECORDS,))
    for name, spec in arrays.items():
        shape, chunks = (n, *spec.tail), (part_rows, *spec.tail)
        _declare(memory, name, spec, shape=shape, chunks=chunks, dims=_dims(name, spec), checksum=True)
    return {name: made[f"{name}/{NODE_FILE}"].to_bytes() for name in (RECORDS, *arrays)}


def _declare(
    memory: Any, name: str, spec: ArraySpec, *, dims: Sequence[str], checksum: bool = False, **has: Any
) -> None:
    import zarr
    from zarr.codecs import Crc32cCodec

    zarr.create_array(
        memory,
        name=name,
        dtype=str if spec.is_string else spec.numpy,
        filters="auto" if spec.is_string else None,
        compressors=[Crc32cCodec()] if checksum else None,
        fill_value=spec.fill,
        dimension_names=dims,
        attributes=dict(spec.attrs),
        **has,
    )


def _dims(name: str, spec: ArraySpec) -> list[str]:
    return ["row", *(f"{name}_{axis}" for axis in range(1, len(spec.tail) + 1))]


def read_group(folder: Path, name: str) -> dict[str, Any]:
    """The attributes of the group at `folder`, called `name`; DamagedError if its document is no good."""
    return read_group_file(folder / NODE_FILE, name)


def read_group_file(path: Path, name: str) -> dict[str, Any]:
    """The same for the document at `path`."""
    document = _read(path, name, node="group")
    attributes = document.get("attributes")
    if not isinstance(attributes, dict):
        raise damaged(path, name, "has no attributes")
    return attributes


def read_array(folder: Path, name: str, n: int, part_rows: int, declared: ArraySpec | None = None) -> ArraySpec:
    """The array at `folder` of the artefact `name`.

    DamagedError if its document disagrees with `n`, `part_rows`, the format or what was `declared`.
    """
    path = folder / NODE_FILE
    document = _read(path, name, node="array")
    try:
        tail = tuple(document["shape"][1:])
        spec = ArraySpec(document["data_type"], tail=tail, attrs=document["attributes"])
    except (LookupError, TypeError, StoreError) as error:
        raise damaged(path, name, f"describes no array of this format ({error!r})") from error
    codecs = [_serializer(spec), "crc32c"]
    _refuse_other(path, name, document, spec, shape=[n, *tail], chunk=[part_rows, *tail], codecs=codecs)
    if document["dimension_names"] != _dims(folder.name, spec):
        raise damaged(path, name, f"names the dimensions {document['dimension_names']}")
    if declared is not None and (spec, spec.attrs) != (declared, declared.attrs):
        raise damaged(path, name, f"says {spec.declaration()}, the artefact declares {declared.declaration()}")
    return spec


def read_records(folder: Path, name: str, n: int, part_rows: int) -> ArraySpec:
    """The array of records at `folder`; DamagedError if its document is not what the format says."""
    path = folder / NODE_FILE
    document = _read(path, name, node="array")
    _refuse_other(path, name, document, _RECORD, shape=[n_parts(n, part_rows)], chunk=[1], codecs=["bytes"])
    if (document["dimension_names"], document["attributes"]) != ([RECORDS], {}):
        raise damaged(path, name, "does not name its dimension, and nothing else")
    return _RECORD


def _refuse_other(
    path: Path,
    name: str,
    document: dict[str, Any],
    spec: ArraySpec,
    *,
    shape: list[int],
    chunk: list[int],
    codecs: list[str],
) -> None:
    """DamagedError unless the document describes `spec` in this shape, chunks and codecs, as the format has it."""
    expected: dict[str, Any] = {
        "data_type": spec.dtype,
        "shape": shape,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": codec, "configuration": _BYTES if codec == "bytes" else {}} for codec in codecs],
        "fill_value": _filling(spec),
        "storage_transformers": [],
    }
    try:
        keys, by_default = document["chunk_key_encoding"], {"bytes": _BYTES}
        found = {
            **{key: document[key] for key in ("data_type", "shape", "chunk_grid", "fill_value")},
            "chunk_key_encoding": {"configuration": {"separator": "/"}, **keys},
            "codecs": [{"configuration": by_default.get(codec["name"], {}), **codec} for codec in document["codecs"]],
            "storage_transformers": document.get("storage_transformers", []),
        }
        _ = document["attributes"], document["dimension_names"]
    except (LookupError, TypeError) as error:
        raise damaged(path, name, f"describes no array of this format ({error!r})") from error
    if found != expected:
        differs = [f"{key} {found[key]!r}, not {expected[key]!r}" for key in expected if found[key] != expected[key]]
        raise damaged(path, name, f"says {'; '.join(differs)}")


def _filling(spec: ArraySpec) -> Any:
    """The fill value as JSON has it."""
    if spec.is_string:
        return ""
    return {"f": "NaN", "b": False}.get(spec.numpy.kind, 0)


def _serializer(spec: ArraySpec) -> str:
    return "vlen-utf8" if spec.is_string else "bytes"


def _read(path: Path, name: str, *, node: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(path, name, "is missing") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise damaged(path, name, f"is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise damaged(path, name, "is not a JSON object")
    if (document.get("zarr_format"), document.get("node_type")) != (3, node):
        raise damaged(path, name, f"is not the document of a Zarr 3 {node}")
    for key in sorted(document.keys() - _KEYS[node]):  # Zarr has others only where a reader may pass them over
        extra = document[key]
        if extra is not None and not (isinstance(extra, dict) and extra.get("must_understand") is False):
            raise damaged(path, name, f"has {key!r}, which no document of a Zarr {node} has")
    return document


def damaged(path: Path, name: str, why: str) -> DamagedError:
    """The error that says what is wrong with the document `path` of the artefact or group `name`."""
    return DamagedError(f"{name} is damaged: {path} {why}", _fix_of(path, name), artefact=name)


def _fix_of(path: Path, name: str) -> Fix:
    """How to fix a document: the store's own repair, where there is what to make it from."""
    store = store_of(path)
    if not is_artefact(name) or (store / ARRAYS / name / COPY).is_file():
        return rewriting(store)
    return giving_up(store, name)
