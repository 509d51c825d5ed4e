"""Ctrl-C and SIGTERM: both end a command in the same way, and neither is lost."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN_SECONDS = 0.01
"""How long after a lost interrupt it is sent again: the code that lost it has returned by then."""


def listen() -> None:
    """Let SIGTERM raise KeyboardInterrupt as Ctrl-C does, and send an interrupt again where Python drops it.

    An exception in a finaliser or a weak reference's callback is reported and forgotten: an interrupt that comes in
    one of these moments would not stop the command. Sent again it is a SIGTERM, which no shell lets its background jobs
    ignore.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _again


@contextmanager
def at_once() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the process: for waits in foreign code, which Python's handlers don't break off.

    Only where nothing is lost by it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def _again(lost: Any) -> None:
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    timer = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, [threading.main_thread().ident, signal.SIGTERM])
    timer.daemon = True
    timer.start()
