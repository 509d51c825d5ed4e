"""Write a report of a store: the sections, each on its own feet, as one HTML file, as Markdown, or as both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import store
from ntkcli import __version__
from ntkcli.errors import UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.steps.reports import markdown, page
from ntkcli.steps.reports.blocks import Block, Notice, Section
from ntkcli.steps.reports.collect import READING, Facts, collect
from ntkcli.steps.reports.sections import SECTIONS
from ntkcli.steps.reports.texts import visible
from ntkcli.steps.shared.outputs import check_output, inputs_of, output_path
from ntkcli.steps.shared.stores import open_store

MARK: Final = "ntksel report"
"""What the head of each of our files holds; a file without it is somebody else's."""
DEFAULT: Final = "report.html"


@dataclass(frozen=True, slots=True)
class ReportResult:
    """The files written (None = not asked for), the bytes of them together, and the ids of the sections.

    `missing` names the sections that have nothing to show yet, `damaged` what could not be read.
    """

    html: str | None
    md: str | None
    bytes: int
    sections: tuple[str, ...]
    missing: tuple[str, ...]
    damaged: tuple[str, ...]


def report(
    store_path: str | Path,
    *,
    html: str | Path | None = None,
    md: str | Path | None = None,
    selection: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ReportResult:
    """Write what is in the store for people; reads stored arrays only, computes no feature and loads no model.

    Without `html` and `md` the file is `reports/report.html` in the store. `selection` is shown in detail, by default
    the newest one that is not random. A file that no report wrote is kept, unless `force`.

    Raises:
        UsageError: the extra `report` is not installed, or a file can't be written there.
    """
    progress = progress or Silent()
    stored = open_store(store_path)
    if html is None and md is None:
        html = stored.folder("reports", DEFAULT)
        html.parent.mkdir(exist_ok=True)
    files = {option: Path(path) for option, path in (("--html", html), ("--md", md)) if path is not None}
    _check(stored, files, force=force)
    facts = collect(stored, selection=selection)
    progress.start("report", total=len(SECTIONS), unit="sections")
    sections = []
    for section_id, title, make in SECTIONS:
        sections.append(Section(section_id, title, tuple(_blocks(facts, make))))
        progress.advance(1)
    progress.stop()
    about = page.About(visible(stored.path.resolve().name), f"ntksel {__version__}", _now(), MARK)
    written = 0
    if html is not None:
        written += _write(Path(html), page.write(about, sections, facts.damaged, facts.repair))
    if md is not None:
        written += _write(Path(md), markdown.write(about, sections, facts.damaged, facts.repair))
    return ReportResult(
        html=None if html is None else str(html),
        md=None if md is None else str(md),
        bytes=written,
        sections=tuple(section.id for section in sections),
        missing=tuple(section.id for section in sections if _is_missing(section)),
        damaged=tuple(name for name, _ in facts.damaged),
    )


def _blocks(facts: Facts, make: Callable[[Facts], list[Block]]) -> list[Block]:
    """The blocks of a section, or one that says that they could not be made: one bad array spoils one section."""
    try:
        return make(facts)
    except READING as error:
        return [Notice("damaged", f"This section could not be made: {type(error).__name__}: {error}", facts.repair)]


def _is_missing(section: Section) -> bool:
    return all(isinstance(block, Notice) for block in section.blocks)


def _check(stored: store.Store, files: Mapping[str, Path], *, force: bool) -> None:
    """UsageError, with nothing made, if a report can't be made or must not write one of `files` (by their options)."""
    if find_spec("plotly") is None or find_spec("jinja2") is None:
        raise UsageError("A report needs plotly and jinja2.", "Run `pip install 'ntksel[report]'`.")
    if len({output_path(path) for path in files.values()}) < len(files):
        raise UsageError(f"--html and --md are both {files['--md']}.", "Give two names.")
    known = inputs_of(stored, on_damage=lambda _: None)
    for option, path in files.items():
        target = output_path(path)
        if target.is_dir():
            raise UsageError(f"{option} {path} is a folder.", "Give the name of a file.")
        check_output(path, option=option, inputs=known, stored=None, force=True)  # our mark is in the file itself
        if target.exists() and not force and not is_ours(target):
            raise UsageError(
                f"{option} {path} exists, and no report wrote it.", "Give another name, or --force to write over it."
            )


def is_ours(path: Path) -> bool:
    """Whether a report wrote the file, so that it may be replaced. An empty file may be as well."""
    with path.open("rb") as file:
        head = file.read(1024)
    return not head or MARK.encode() in head


def _write(path: Path, text: str) -> int:
    data = text.encode("utf-8")
    store.write_bytes(output_path(path), data)
    return len(data)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
