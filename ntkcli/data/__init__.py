"""Data in: files → rows (`DataFile`, `scan`, `pick`) → tokens with a supervised mask (`Encoder`).

The names are imported when they are first used: `--help` lists the readers (`formats.registry`) without numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntkcli.data.encoding import Encoded, Encoder
    from ntkcli.data.files import DataFile, pick
    from ntkcli.data.rows import BadRow, Message, Row, RowError
    from ntkcli.data.scanning import Scan, scan

__all__ = ["BadRow", "DataFile", "Encoded", "Encoder", "Message", "Row", "RowError", "Scan", "pick", "scan"]

_FROM = {
    **dict.fromkeys(("Encoded", "Encoder"), "encoding"),
    **dict.fromkeys(("DataFile", "pick"), "files"),
    **dict.fromkeys(("BadRow", "Message", "Row", "RowError"), "rows"),
    **dict.fromkeys(("Scan", "scan"), "scanning"),
}


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
    globals()[name] = value
    return value
