"""Data in: files → rows (`DataFile`, `scan`, `pick`) → tokens with a supervised mask (`Encoder`)."""

from ntkcli.data.encoding import Encoded, Encoder
from ntkcli.data.files import DataFile, pick
from ntkcli.data.rows import BadRow, Message, Row, RowError
from ntkcli.data.scanning import Scan, scan

__all__ = ["BadRow", "DataFile", "Encoded", "Encoder", "Message", "Row", "RowError", "Scan", "pick", "scan"]
