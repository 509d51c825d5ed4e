"""The scan of a whole data set: memory that doesn't grow with it, repeated ids, and every problem told."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkcli.data import DataFile, Message, Row, scan, spool
from ntkcli.data.rows import canonical_row
from ntkcli.data.spool import OwnIds, RowIds
from ntkcli.errors import DataError
from store import RowStatus, canonical_json

GOOD = {"prompt": "Q", "completion": "A"}


def peak_bytes(path: Path, rows: int) -> int:
    """The most memory that Python objects took during the scan of a file with rows that bring an id."""
    with path.open("w") as file:
        for i in range(rows):
            file.write(json.dumps(GOOD | {"id": f"row {i}", "source": f"s{i % 3}"}) + "\n")
    scanned = DataFile(path)
    tracemalloc.start()
    found = scan(scanned, on_error="fail")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.n == rows
    return peak


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    """Five bytes a row, nine while a list of them grows; an id alone as a string would take sixty."""
    monkeypatch.setattr(spool, "_AT_ONCE", 1000)
    peak_bytes(tmp_path / "d.jsonl", 500)  # what is made once
    small, large = (peak_bytes(tmp_path / "d.jsonl", rows) for rows in (2_000, 7_000))
    assert (large - small) / 5_000 < 12


@pytest.mark.parametrize("at_once", [1, 3, 1000])
@settings(max_examples=30)
@given(ids=st.lists(st.one_of(st.none(), st.text(max_size=2)), max_size=12))
def test_repeated_ids_are_those_that_a_dictionary_finds(at_once, ids):
    found = OwnIds()
    for own in ids:
        found.append(own)
    seen: dict[str, int] = {}
    expected = [(i, first) for i, own in enumerate(ids) if own is not None and (first := seen.setdefault(own, i)) != i]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "_AT_ONCE", at_once)
        rows, firsts = found.repeated()
    assert list(zip(rows.tolist(), firsts.tolist(), strict=True)) == expected


@settings(max_examples=30)
@given(ids=st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_ids_come_back_in_order_and_again(ids):
    kept = RowIds()
    for row_id in ids:
        kept.append(row_id)
    assert list(kept) == list(kept) == ids
    assert len(kept) == len(ids)


@given(text=st.text(st.characters(exclude_categories=["Cs"])), answer=st.one_of(st.none(), st.integers(0, 9)))
def test_a_row_is_canonical_json(text, answer):
    """Written by a quicker encoder, but the same bytes as a spec's: digests hold for both."""
    row = Row(0, 1, text, text, (Message("user", text),), (text,), answer)
    assert canonical_row(row) == canonical_json([text, text, [["user", text]], [text], answer])


def test_repeated_ids_are_named_with_the_first_of_their_kind(write):
    path = write(*[GOOD | {"id": name} for name in "xyxzyx"])
    with pytest.raises(DataError) as caught:
        scan(DataFile(path), on_error="fail")
    assert caught.value.details == (
        f"{path} line 3: the id 'x' stands already in line 1",
        f"{path} line 5: the id 'y' stands already in line 2",
        f"{path} line 6: the id 'x' stands already in line 1",
    )
    found = scan(DataFile(path), on_error="skip")
    assert found.status.tolist() == [0, 0, RowStatus.UNREADABLE, 0, RowStatus.UNREADABLE, RowStatus.UNREADABLE]
    assert list(found.row_ids) == ["x", "y", "", "z", "", ""]


def test_a_label_of_repeated_rows_alone_is_none(write):
    lines = [GOOD | {"id": "x", "source": "a"}, GOOD | {"id": "x", "source": "b"}, GOOD | {"id": "y", "source": "c"}]
    found = scan(DataFile(write(*lines)), on_error="skip")
    assert [found.sources[code] for code in found.source_codes] == ["a", "", "c"]
    assert "b" not in found.sources


def test_many_repeated_ids_are_counted(write):
    found = scan(DataFile(write(*[GOOD | {"id": "x"}] * 100)), on_error="skip")
    assert (found.n_bad, len(found.bad)) == (99, 20)
    assert np.count_nonzero(found.status) == 99
    assert all(row.reason == "the id 'x' stands already in line 1" for row in found.bad)


def test_twenty_problems_are_shown_and_the_rest_counted(write):
    path = write(GOOD, *["{"] * 30)
    with pytest.raises(DataError) as caught:
        scan(DataFile(path), on_error="fail")
    details = caught.value.details
    assert details[0] == f"{path} line 2: not JSON: Expecting property name enclosed in double quotes at character 1"
    assert details[19].startswith(f"{path} line 21: ")
    assert details[20:] == ("and 10 more bad rows",)


def test_what_is_kept_meanwhile_leaves_no_file(write, tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    found = scan(DataFile(write(GOOD)), on_error="fail", folder=folder)
    assert list(folder.iterdir()) == []
    assert len(list(found.row_ids)) == 1
