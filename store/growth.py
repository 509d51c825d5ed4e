"""Build a longer artefact out of one that is there: its whole parts as they are, its last one as a head.

A head is the rows that a part had before the artefact grew. It lies in the part's chunks, which have no record, so to
readers the part is not done; the attribute `heads` says how many rows it has and the digest of these. Whoever computes
the part takes them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from store import atomic, chunks
from store.artefact import HEADS, Artefact
from store.layout import RECORDS, part_bounds
from store.parts import create_files


def heads_of(old: Artefact, n: int, part_rows: int) -> list[dict[str, int]]:
    """What the artefact of `n` rows will have as heads: of the last part, if it is done, and those not used yet."""
    if part_rows != old.part_rows:  # a single part, cut to its rows
        known = old.recorded(0) if old.n_parts else 0
        own = [{"part": 0, "rows": old.n, "digest": known}] if known else []
        return own or list(old.attrs.get(HEADS, []))
    done = old.done()
    heads = [each for each in old.attrs.get(HEADS, []) if not done[each["part"]]]
    last = old.n_parts - 1
    if old.n_parts and done[last] and part_bounds(last, n, part_rows) != old.part_bounds(last):
        start, stop = old.part_bounds(last)
        heads.append({"part": last, "rows": stop - start, "digest": old.recorded(last)})
    return heads


def build(old: Artefact, folder: Path, said: Mapping[str, Any]) -> None:
    """Fill the folder with an artefact of the attributes `said`, with links to the files of `old` that it keeps."""
    n, part_rows = said["n"], said["part_rows"]
    create_files(folder, said, n=n, part_rows=part_rows, arrays=old.arrays)
    if part_rows != old.part_rows:
        _copy_head(old, folder, said)
        return
    heads = {head["part"] for head in said[HEADS]}
    for i in sorted({*np.flatnonzero(old.done()).tolist(), *heads}):
        files = old.chunk_files(i)
        if i not in heads:
            files.append(Path(RECORDS, "c", str(i)))
        if all((old.path / file).is_file() for file in files):  # else it is damaged, and pending
            for file in files:
                atomic.link_draft(old.path / file, folder / file)


def _copy_head(old: Artefact, folder: Path, said: Mapping[str, Any]) -> None:
    """The rows of an only part, as chunks of another size."""
    if not said[HEADS]:
        return
    rows = {name: old.read(name) for name in old.arrays} if old.recorded(0) else old.head(0)
    if rows is None:  # damaged: without chunks the part has no head, and all of it is computed
        return
    for file, (name, values) in zip(old.chunk_files(0), rows.items(), strict=True):
        pieces = chunks.encode(values, old.arrays[name], said["part_rows"])
        atomic.write_draft(folder / file, b"".join(pieces))
