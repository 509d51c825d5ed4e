"""One-line notes from code that must not print: what a user should know and nothing fails for.

Must not know commands. `ntkcli.app` shows the notes on stderr; a program that uses the Python interface gets them as
warnings of the logger `ntkcli`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar

_SHOW: ContextVar[Callable[[str], None] | None] = ContextVar("_SHOW", default=None)
_SHOWN: ContextVar[set[str] | None] = ContextVar("_SHOWN", default=None)
_SHOWN_WITHOUT_A_COMMAND: set[str] = set()


def show_with(show: Callable[[str], None]) -> None:
    """From here on, in this context, notes go to `show`, each text once."""
    _SHOW.set(show)
    _SHOWN.set(set())


def note(text: str) -> None:
    """Show a note, unless the same text was shown before."""
    shown = _SHOWN.get()
    shown = _SHOWN_WITHOUT_A_COMMAND if shown is None else shown
    if text in shown:
        return
    shown.add(text)
    show = _SHOW.get()
    if show is None:
        logging.getLogger("ntkcli").warning(text)
    else:
        show(text)
