"""Data in: files → rows (`DataFile`, `scan`, `pick`) → tokens with a supervised mask (`Encoder`)."""

from ntkcli.data.encoding import Encoded, Encoder
from ntkcli.data.files import DataFile, Scan, pick, scan
from ntkcli.data.rows import BadRow, Message, Row, RowError

__all__ = ["BadRow", "DataFile", "Encoded", "Encoder", "Message", "Row", "RowError", "Scan", "pick", "scan"]
