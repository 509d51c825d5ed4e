"""Chunks to and from bytes: exactly those of zarr's codecs `bytes` or `vlen-utf8`, then `crc32c`.

Done here and not by zarr, because a chunk then goes between the file and the caller's array without a copy,
is checked while it is in the processor's cache, and is written durably. tests/store/test_truth.py holds both
to the same bytes. The checksums come from google-crc32c and the strings from numcodecs, as they do in zarr.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from store.documents import ArraySpec, Rows

CRC_BYTES: Final = 4
_PAGE_BYTES: Final = 4096
_PIECE_BYTES: Final = 1 << 20  # read and checked at a time: fits a core's L2 cache
Bytes = npt.NDArray[np.uint8]


class ChunkError(Exception):
    """Why a chunk could not be decoded; the caller knows which one it was."""


def encode(rows: Rows, spec: ArraySpec, part_rows: int) -> Iterator[memoryview]:
    """The bytes of the chunk that holds `rows`, then their checksum; a short last part is filled up to `part_rows`."""
    if len(rows) < part_rows:
        whole = np.full((part_rows, *spec.tail), spec.fill, dtype=spec.numpy)
        whole[: len(rows)] = rows
        rows = whole
    data = _encode_strings(rows) if spec.is_string else _bytes_of(rows)
    yield data.data
    yield memoryview(_crc32c(data).to_bytes(CRC_BYTES, "little"))


def read_into(out: Rows, path: str, spec: ArraySpec, part_rows: int) -> None:
    """Fill `out`, all rows of one part, C-contiguous, from the chunk at `path`; ChunkError if it can't be."""
    try:
        if spec.is_string:
            out[:] = _decode_strings(Path(path).read_bytes(), part_rows)[: len(out)]
        else:
            _read_numbers(path, _bytes_of(out), (part_rows - len(out)) * spec.row_bytes)
    except FileNotFoundError as error:
        raise ChunkError("its file is missing") from error


def empty(rows: int, spec: ArraySpec) -> Rows:
    """An array (rows, *tail) to be filled, that starts on a page.

    Where numpy starts a large array, 16 bytes into a page, the kernel copies a file into it at half the speed:
    1.9 against 4.6 GB/s (AMD EPYC, Linux 6.18); 16 bytes apart modulo a page, loads wait for stores.
    """
    shape = (rows, *spec.tail)
    if spec.is_string:
        return np.full(shape, "", spec.numpy)
    size = rows * spec.row_bytes
    spare = np.empty(size + _PAGE_BYTES, np.uint8)
    start = -spare.ctypes.data % _PAGE_BYTES
    return spare[start : start + size].view(spec.numpy).reshape(shape)


def digest(part: Mapping[str, Rows], arrays: Mapping[str, ArraySpec]) -> int:
    """The record of a part: CRC-32 over its arrays in the order of their names, 0 replaced by 1."""
    crc = 0
    for name in sorted(arrays):
        rows = part[name]
        if arrays[name].is_string:
            crc = zlib.crc32("".join(f"{text}\0" for text in rows).encode(), crc)
        else:
            crc = zlib.crc32(_bytes_of(rows).data, crc)
    return crc or 1


def _read_numbers(path: str, out: Bytes, padding: int) -> None:
    """Read the chunk's bytes into `out`, and `padding` more to check them, piece by piece."""
    from google_crc32c import extend

    pieces = [out[at : at + _PIECE_BYTES] for at in range(0, out.size, _PIECE_BYTES)]
    if padding:
        spare = np.empty(min(padding, _PIECE_BYTES), np.uint8)
        pieces += [spare[: min(_PIECE_BYTES, padding - at)] for at in range(0, padding, _PIECE_BYTES)]
    file, crc = os.open(path, os.O_RDONLY), 0  # no file object: half the time of a small chunk
    try:
        for piece in pieces:
            if not _fill(file, piece):
                raise ChunkError("its file is too short")
            crc = extend(crc, piece)
        _check(os.read(file, CRC_BYTES + 1), crc)
    finally:
        os.close(file)


def _fill(file: int, piece: Bytes) -> bool:
    """Whether the open file held enough to fill `piece`."""
    got = 0
    while got < piece.size:
        count = os.readv(file, [piece.data[got:]])
        if not count:
            return False
        got += count
    return True


def _encode_strings(rows: Rows) -> Bytes:
    from numcodecs import VLenUTF8

    return np.frombuffer(VLenUTF8().encode(rows), np.uint8)


def _decode_strings(data: bytes, part_rows: int) -> Rows:
    from numcodecs import VLenUTF8

    body = data[:-CRC_BYTES]
    _check(data[-CRC_BYTES:], _crc32c(np.frombuffer(body, np.uint8)))
    try:
        rows: Rows = VLenUTF8().decode(body)
    except ValueError as error:  # whole, and in the wrong place: the chunk of another array
        raise ChunkError("it holds no strings") from error
    if len(rows) != part_rows:
        raise ChunkError(f"it holds {len(rows)} rows, not {part_rows}")
    return rows


def _check(found: bytes, crc: int) -> None:
    if found != crc.to_bytes(CRC_BYTES, "little"):
        raise ChunkError("its checksum does not match its bytes")


def _crc32c(data: Bytes) -> int:
    from google_crc32c import value

    return int(value(data))


def _bytes_of(rows: Rows) -> Bytes:
    """The bytes of C-contiguous numbers, not copied."""
    flat: Any = rows.reshape(-1)
    return np.asarray(flat.view(np.uint8))
