"""Progress: what is shown of work below the steps, one course at a time, in one line of any terminal."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ntkcli import digests
from ntkcli.choices import OnError
from ntkcli.console import Reporter
from ntkcli.data import DataFile, scan
from ntkcli.data.formats import columnar, compression
from ntkcli.progress import ShownFile, counted_below, show_below_with, shown
from ntkcli.selection.alike import Alike
from ntkcli.selection.chooser import Chooser, Limits
from ntkcli.selection.likeness import Known
from ntkcli.selection.partition import Components
from ntkcli.steps.selections.selectors import choose
from tests.conftest import prompt_rows, write_rows


class Recorded:
    """Every course: label, total, unit, and how much of it was done when it stopped."""

    def __init__(self) -> None:
        self.courses: list[list[object]] = []
        self.open = 0

    def start(self, label: str, *, total: int, unit: str, done: int = 0) -> None:
        self.courses.append([label, total, unit, done])
        self.open += 1

    def advance(self, count: int, *, tokens: int = 0, note: str = "") -> None:
        del tokens, note
        self.courses[-1][3] += count  # type: ignore[operator]

    def stop(self) -> None:
        self.open -= 1

    def note(self, text: str) -> None:
        pass


def recorded(work: Callable[[], object]) -> list[list[object]]:
    """The courses that the work shows of what is below any step; all of them are over."""
    seen = Recorded()
    context = copy_context()
    context.run(show_below_with, lambda: seen)
    context.run(work)
    assert seen.open == 0
    return seen.courses


def test_without_a_command_nothing_is_shown() -> None:
    with shown("work", total=3, unit="rows") as advance:
        advance(3)
    assert list(counted_below("abc", "letters", 3)) == ["a", "b", "c"]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.bz2", ".jsonl.zst", ".parquet", ".arrow"])
def test_a_large_file_is_shown_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    import bz2
    import gzip

    import pyarrow as pa
    import pyarrow.parquet

    path, rows = tmp_path / f"d{suffix}", prompt_rows(3000)
    plain = write_rows(tmp_path / "plain.jsonl", rows).read_bytes()
    if suffix in (".parquet", ".arrow"):
        table = pa.Table.from_pylist(rows)
        if suffix == ".parquet":
            pa.parquet.write_table(table, path)
        else:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
    else:
        pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": pa.Codec("zstd").compress}.get(path.suffix, bytes)
        path.write_bytes(pack(plain))

    def read() -> None:
        assert scan(DataFile(path), on_error=OnError.FAIL).n == 3000

    assert recorded(read) == []  # a small one is not
    for module in (compression, columnar):
        monkeypatch.setattr(module, "LARGE_BYTES", 1000)
    courses = recorded(read)
    assert courses[-1][0] == f"reading {path.name}"
    total, unit, done = courses[-1][1:]
    assert unit == ("rows" if suffix == ".parquet" else "MiB")
    assert total == (3000 if suffix == ".parquet" else 1)
    if suffix == ".parquet":
        assert done == 3000


def test_the_course_of_a_file_is_in_mib_and_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(5 << 20))

    def read() -> None:
        with ShownFile(tmp_path / "f", label="f", after=1 << 20).buffered() as file:
            while file.read(100_000):
                pass

    def give_up() -> None:
        with ShownFile(tmp_path / "f", label="f", after=1 << 20).buffered() as file:
            file.read(2 << 20)

    assert recorded(read) == [["f", 5, "MiB", 5]]
    (left,) = recorded(give_up)
    assert left[3] == 2


def test_a_folder_of_files_is_shown_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ntkcli.data import places

    (tmp_path / "d").mkdir()
    for i in range(4):
        write_rows(tmp_path / f"d/{i}.jsonl", prompt_rows(5, seed=i))
    monkeypatch.setattr(places, "LARGE_BYTES", 100)
    courses = recorded(lambda: list(DataFile(tmp_path / "d").records()))
    assert courses == [["reading d", 4, "files", 4]]


def test_a_large_digest_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_bytes(bytes(3 << 20))
    before = digests.hash_file(tmp_path / "weights")
    monkeypatch.setattr(digests, "_LARGE_BYTES", 1 << 20)
    found: list[str] = []
    courses = recorded(lambda: found.append(digests.hash_file(tmp_path / "weights")))
    assert found == [before]
    assert courses == [["digest of weights", 3, "MiB", 3]]


def test_a_model_that_is_loaded_is_shown(model_dir: Path) -> None:
    from ntkcli.engine.models.loading import load_model
    from ntkcli.identity import resolve_model

    identity = resolve_model(str(model_dir))
    (course,) = recorded(lambda: load_model(identity, dtype="float32", device="cpu"))
    assert course[0] == "loading the model"
    assert course[1] == course[3] > 5


def test_near_duplicates_are_shown() -> None:
    texts = [f"some words of row {i}" for i in range(30)]
    alike = Alike()
    for text in texts:
        alike.add(text, None)
    courses = recorded(lambda: alike.join(Components(30)))
    assert courses == [["near-duplicates", 30, "rows", 30]]
    assert recorded(lambda: Known(texts, texts)) == [["texts to compare with", 30, "rows", 30]]


@pytest.mark.parametrize("method", ["top", "herding", "coverage", "ot", "round-robin"])
def test_rows_that_are_taken_are_shown(method: str) -> None:
    if method == "ot":
        pytest.importorskip("ot")
    draw = np.random.default_rng(0)
    unit = draw.normal(size=(300, 6)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    seen = Recorded()
    chooser = choose(
        method, Limits(np.zeros(300, np.int64), n=40), score=unit[:, 0], similarity=unit[:, 1], first=[7],
        compared=Compared(unit), exponent=0.5, progress=seen,  # type: ignore[arg-type]
    )  # fmt: skip
    assert len(chooser.taken) == 40
    assert seen.courses == [[f"choosing by {method}", 40, "rows", 40]]
    assert seen.open == 0


class Compared:
    """Features in memory, the first ten rows being the domain's, as `ComparedRows` gives them."""

    def __init__(self, unit: np.ndarray) -> None:
        self._unit = unit
        self.target = self
        self.domain = unit[:10]

    def unit(self) -> np.ndarray:
        return self._unit

    def similar(self) -> np.ndarray:
        found: np.ndarray = self._unit @ self.domain.T
        return found

    def nearest(self, is_open: np.ndarray, k: int) -> object:
        from ntkcli.scoring.nearest import NearestRows

        found = NearestRows(10, n=len(self._unit), k=k)
        rows = np.flatnonzero(is_open)
        found.add(rows, self.domain @ self._unit[rows].T)
        return found.found()


def test_a_row_that_is_refused_is_not_counted() -> None:
    taken: list[int] = []
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    limits = Limits(np.zeros(3, np.int64), n=3, tau=0.9, vectors=vectors)
    chooser = Chooser(limits, on_take=lambda: taken.append(1))
    assert [chooser.take(row, 1.0) for row in range(3)] == [True, False, True]
    assert len(taken) == 2


def console(width: int, *, terminal: bool = True, term: str = "xterm") -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, _environ={"TERM": term, "COLUMNS": ""})


@pytest.fixture
def lines() -> Iterator[Callable[[Console], str]]:
    """Reads what a console has written."""
    yield lambda console: console.file.getvalue()  # type: ignore[attr-defined]
    Reporter.stop_live()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("label", ["r", "features/pool/ntk", "reading a-file-with-a-long-name-2024.jsonl"])
def test_a_bar_stays_on_one_line_and_keeps_its_eta(width: int, label: str) -> None:
    out = console(width)
    reporter = Reporter(out, quiet=False)
    reporter.start(label, total=123_456, unit="rows")
    try:
        reporter._began -= 100
        reporter.advance(1000, tokens=10**7, note="loss 1.234")
        assert reporter._bar is not None
        plain = console(width, terminal=False)
        plain.print(reporter._bar.get_renderable())
        (line,) = plain.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert len(line.rstrip()) <= width
        assert "ETA " in line
        assert line.count("…") <= 1  # of the label, and never of the ETA
        assert ("1000/123456 rows" in line) == (width >= 60 or (width == 40 and label == "r"))
        assert ("tokens/s" in line) == (width >= 120 or (width == 80 and len(label) < 20))
    finally:
        reporter.stop()


def test_a_terminal_has_one_course_at_a_time() -> None:
    out = console(80)
    step = Reporter(out, quiet=False)
    below = step.below()
    below.start("digest", total=10, unit="MiB")
    step.start("featurize", total=10, unit="rows")  # takes its place
    assert Reporter._live is step
    below.advance(5)
    below.stop()
    assert Reporter._live is step
    silent = step.below()
    silent.start("reading", total=10, unit="MiB")
    assert Reporter._live is step
    step.stop()
    assert Reporter._live is None


@pytest.mark.parametrize(("terminal", "term"), [(False, "xterm"), (True, "dumb")])
def test_without_a_terminal_that_can_draw_there_are_lines(
    monkeypatch: pytest.MonkeyPatch, lines: Callable[[Console], str], terminal: bool, term: str
) -> None:
    monkeypatch.setattr("ntkcli.console.LINE_SECONDS", -1)
    out = console(40, terminal=terminal, term=term)
    reporter = Reporter(out, quiet=False)
    reporter.start("rows of a long name that is not cut", total=10, unit="rows")
    reporter.advance(5)
    assert "rows of a long name that is not cut: 5/10 rows, ETA" in " ".join(lines(out).split())
    assert "\x1b" not in lines(out)
    reporter.stop()
    quiet = Reporter(console(40, terminal=terminal, term=term), quiet=True)
    quiet.start("x", total=10, unit="rows")
    quiet.advance(5)
    assert lines(quiet._console) == ""
