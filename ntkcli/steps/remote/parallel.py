"""Many files at once, with their progress, until the first error or an interrupt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Final, TypeVar

from ntkcli.progress import Progress

Item = TypeVar("Item")
AT_ONCE: Final = 16
"""A file of an object store waits some 50 ms for its answer; memory is bounded by so many parts."""
KB: Final = 1000


def kilobytes(size: int) -> int:
    """Of the bar: whole kB, at least one a file."""
    return max(1, -(-size // KB))


def total_kilobytes(sizes: Iterable[int]) -> int:
    """Of all files."""
    return sum(map(kilobytes, sizes))


def for_each(work: Callable[[Item], int], items: Sequence[Item], progress: Progress) -> None:
    """Do the work for each item; it returns the kB that it was. What has not begun is left after an error."""
    with ThreadPoolExecutor(AT_ONCE, "transfer") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                progress.advance(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
