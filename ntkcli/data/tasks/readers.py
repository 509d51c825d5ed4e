"""Files that tasks were published in and that are not tables: lines without a header, and ContractNLI's one object."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ntkcli.data.formats.delimited import read_delimited
from ntkcli.data.formats.records import ParsedRecord, Record
from ntkcli.errors import DataError

_MMLU: Final = ("question", "A", "B", "C", "D", "answer")


class Numbered(ParsedRecord):
    """A record whose number is that of its line."""

    __slots__ = ()
    unit = "line"


def read_tabs(path: Path) -> Iterator[Record]:
    """A tab-separated file with a header, whatever its name ends in."""
    return read_delimited(path, "\t")


def read_mmlu(path: Path) -> Iterator[Record]:
    """MMLU's CSV files: question, four options and a letter, without a header."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        try:
            for cells in rows:
                if len(cells) == 6:
                    row = {**dict(zip(_MMLU, cells, strict=True)), "subject": _subject(path)}
                    yield Numbered(path, rows.line_num, row)
                elif cells:
                    yield Numbered(path, rows.line_num, None, f"it has {len(cells)} cells, and MMLU's rows have 6")
        except csv.Error as error:
            raise DataError(f"{path} line {rows.line_num} is not valid CSV: {error}.", "Fix that line.") from error


def read_phrasebank(path: Path) -> Iterator[Record]:
    """Financial PhraseBank's lines `sentence@label`, in Latin-1."""
    with path.open(encoding="latin-1") as file:
        for number, line in enumerate(file, start=1):
            sentence, at, label = line.rpartition("@")
            if at:
                yield Numbered(path, number, {"sentence": sentence, "label": label.strip()})
            elif line.strip():
                yield Numbered(path, number, None, "it has no @ before its label")


def read_contract_nli(path: Path) -> Iterator[Record]:
    """ContractNLI's object of documents and hypotheses: a row for each pair that is annotated."""
    try:
        said = json.loads(path.read_bytes())
        hypotheses = {key: label["hypothesis"] for key, label in said["labels"].items()}
        rows = [
            {
                "id": f"{document['id']}/{key}",
                "premise": document["text"],
                "hypothesis": hypotheses[key],
                "label": found,
            }
            for document in said["documents"]
            for key, found in _choices(document)
        ]
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}.", "Give its path.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path} is not ContractNLI's JSON: {why}.", "Give train.json, dev.json or test.json."
        ) from error
    for number, row in enumerate(rows, start=1):
        yield ParsedRecord(path, number, row)


def _choices(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for annotated in document["annotation_sets"]:
        for key, found in annotated["annotations"].items():
            yield key, found["choice"]


def _subject(path: Path) -> str:
    """ "anatomy" of anatomy_test.csv."""
    return path.stem.rpartition("_")[0] or path.stem


READERS: Final = {
    "tabs": read_tabs,
    "mmlu": read_mmlu,
    "phrasebank": read_phrasebank,
    "contract-nli": read_contract_nli,
}
"""By the name that a task file's `[[file]]` gives."""
