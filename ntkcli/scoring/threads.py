"""Threads that read and compute, their results in order, and products that start no threads of their own."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

MOST_WORKERS = 16
"""Reading from memory gains nothing from more."""
WORKERS_BYTES = 512 << 20
"""Of all workers' own memory together."""


def workers(bytes_each: int) -> int:
    """Threads that read and compute parts: one per core, as far as memory goes; two at least, to read ahead."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, min(cores, MOST_WORKERS, WORKERS_BYTES // max(1, bytes_each)))


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Within it a matrix product takes one thread: the workers are the threads, and OpenBLAS would make them wait.

    It also makes products independent of the number of cores.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def in_order(tasks: Iterable[Callable[[], T]], *, threads: int) -> Iterator[T]:
    """The results of the tasks in their order; as many run at once as there are threads, and one more is ready.

    Tasks start in their order, so one may wait for an earlier one.
    """
    executor, ahead = ThreadPoolExecutor(threads), deque[Future[T]]()
    try:
        for task in tasks:
            ahead.append(executor.submit(task))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
