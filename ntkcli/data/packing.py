"""Which rows share a sequence: packs of rows whose tokens together are at most a length. Pure numbers."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Sequence


def pack_rows(lengths: Sequence[int], room: int, *, seed: int, first: int = 0) -> list[list[int]]:
    """Every row in exactly one pack of at most `room` tokens, as numbers from `first` on; a longer row by itself.

    Rows come in an order drawn by the seed, each into the fullest pack that has room for it (best fit), else into a new
    one: copies of a row and rows of similar length are spread, and few tokens stay empty. Packs come in the order in
    which they were begun, the rows of a pack in the order in which they came. Depends on the arguments alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: hashlib.blake2b(f"{seed}|{i}".encode(), digest_size=8).digest())
    packs: list[list[int]] = []
    left: list[tuple[int, int]] = []  # (tokens of room, number of the pack), ascending
    for i in order:
        at = bisect_left(left, (lengths[i], -1))
        space, number = left.pop(at) if at < len(left) else (room, len(packs))
        if number == len(packs):
            packs.append([])
        packs[number].append(first + i)
        if space > lengths[i]:
            insort(left, (space - lengths[i], number))
    return packs
