"""The page: its structure, hostile rows, missing and damaged parts of the store, its size, and files of others."""

from __future__ import annotations

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import store
from ntkcli.errors import UsageError
from ntkcli.progress import Silent
from ntkcli.steps.diagnosis.findings import Check, Finding, Line, Lines, Panel, Points, distributions
from ntkcli.steps.diagnosis.keep import keep
from ntkcli.steps.reports import page
from ntkcli.steps.reports.blocks import Plot
from ntkcli.steps.reports.collect import collect
from ntkcli.steps.reports.page import json_for_script
from ntkcli.steps.reports.report import report
from ntkcli.steps.reports.sections import SECTIONS
from ntkcli.steps.reports.sections.validation import validation_blocks
from ntkcli.steps.reports.texts import hover, plot_label, visible
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.stores import open_store
from tests.steps.reports.kit import HOSTILE, add_score, add_selection, made_store, write_pool

VOID = {"meta", "link", "br", "img", "input", "hr"}
EVERY = tuple(section_id for section_id, _, _ in SECTIONS)


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, headings, scripts, and the text that is shown."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.headings: list[int] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.shown = ""
        self.feed(text.replace(page._plotly(), "plotly"))  # 5 MB that html.parser is slow on
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag == "script":
            self.scripts.append((found, ""))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attrs, said = self.scripts[-1]
            self.scripts[-1] = (attrs, said + data)
        elif "style" not in self.open:
            self.shown += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]


def page_of(store_path: Path, **options: object) -> Page:
    found = report(store_path, html=store_path.parent / "r.html", **options)  # type: ignore[arg-type]
    assert found.sections == EVERY
    return Page((store_path.parent / "r.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plain_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(made_store(tmp_path_factory.mktemp("plain")))


def test_the_page_is_built_for_a_screen_reader(plain_page: Page) -> None:
    assert not plain_page.open  # every element is closed
    assert plain_page.headings[0] == 1
    assert plain_page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(plain_page.headings, plain_page.headings[1:], strict=False))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(plain_page.all(landmark)) == 1
    ids = [attrs["id"] for _, attrs in plain_page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"][1:] for attrs in plain_page.all("a")]
    assert set(EVERY) <= set(links) <= set(ids)
    assert all("scope" in attrs for attrs in plain_page.all("th"))
    assert len(plain_page.all("caption")) == len(plain_page.all("table"))
    plots = [attrs for attrs in plain_page.all("div") if attrs.get("class") == "plot"]
    assert len(plots) == 4  # funnel, scores, sources, map
    assert "map-table" in ids  # each picture has its numbers as a table
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 20 for attrs in plots)
    assert plain_page.all("html")[0]["lang"] == "en"


def test_the_page_needs_no_network(plain_page: Page) -> None:
    for _, attrs in plain_page.elements:
        assert not {"src", "onclick", "onload", "onerror", "style"} & attrs.keys()
        assert not re.match("https?:|//", attrs.get("href", ""))
    metas = {
        attrs.get("http-equiv", attrs.get("name", "")): attrs["content"]
        for attrs in plain_page.all("meta")
        if "content" in attrs
    }
    policy = metas["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.split("style-src")[0]
    run = [said for attrs, said in plain_page.scripts if not attrs]
    assert len(run) == 3  # plotly, and our two


def test_figures_have_what_the_store_has(plain_page: Page) -> None:
    figures = [json.loads(said) for attrs, said in plain_page.scripts if attrs.get("type") == "application/json"]
    funnel, scores, _, points = figures
    assert funnel["data"][0]["x"] == [200, 200, 200, 30]
    assert [sum(bar["y"]) for bar in scores["data"]] == [170, 30]
    assert {trace["name"]: len(trace["x"]) for trace in points["data"]} == {"pool": 170, "selected": 30, "domain": 20}
    assert "question number" in points["data"][0]["hovertext"][0]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, str]:
    folder = tmp_path_factory.mktemp("hostile")
    path = made_store(folder, texts=HOSTILE, sources=HOSTILE[:3])
    report(path, html=folder / "r.html", md=folder / "r.md")
    return Page((folder / "r.html").read_text(encoding="utf-8")), (folder / "r.md").read_text(encoding="utf-8")


def test_hostile_rows_stay_text(hostile: tuple[Page, str], plain_page: Page) -> None:
    found, _ = hostile
    assert {tag for tag, _ in found.elements} == {tag for tag, _ in plain_page.elements}  # no img, no b, no other a
    assert len([1 for attrs, _ in found.scripts if not attrs]) == 3
    assert len(found.all("a")) == len(plain_page.all("a"))
    assert not any(name.startswith("on") for _, attrs in found.elements for name in attrs)
    for text in HOSTILE:
        assert visible(text) in found.shown
    for attrs, said in found.scripts:
        if attrs:
            assert not re.search("[<>&\u2028\u2029\u202e]", said)
            for trace in json.loads(said)["data"]:
                for text in [*trace.get("hovertext", []), trace.get("name", "")]:
                    assert set(re.findall("<[^>]*>", text)) <= {"<br>"}
    for bad in ("\x1b", "\x07", "\x9b", "\u202e", "\u2028"):
        assert bad not in found.shown


def test_hostile_rows_stay_text_in_markdown(hostile: tuple[Page, str]) -> None:
    _, text = hostile
    assert text.count("<") == 1  # our own mark
    assert "\n<script" not in text
    assert r"\[link\](javascript" in text
    rows = [line for line in text.splitlines() if re.match(r"\| r\d+ \|", line)]
    assert len(rows) > 20
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert cells == {7, 8}  # of the map and of the rows: a pipe in a row's text opens no cell


def test_json_in_a_script_can_not_end_it() -> None:
    value = {"a": "</script><!--<script>& \u2028\u2029 \ud800"}
    said = json_for_script(value)
    assert not re.search("[<>&\u2028\u2029]", said)
    assert json.loads(said) == value


def test_hover_texts_hold_no_tags_but_line_breaks() -> None:
    said = hover("<i>id</i>", "<a href='x'>long</a> " * 40)
    assert set(re.findall("<[^>]*>", said)) == {"<br>"}
    assert max(map(len, said.replace("&lt;", "<").replace("&gt;", ">").split("<br>"))) <= 64


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    open_store(tmp_path / "med", create=True)
    found = report(tmp_path / "med", html=tmp_path / "r.html")
    assert set(EVERY) - {"overview"} == set(found.missing)
    shown = Page((tmp_path / "r.html").read_text()).shown
    for verb in ("featurize", "score", "select", "finetune", "eval"):
        assert f"ntksel {verb}" in shown
    assert (tmp_path / "r.html").stat().st_size < 100_000  # no figure, so no plotly


LEVELS = ["datasets/pool", "datasets/domain", "features/pool/ntk", "features/domain/ntk", "scores/s", "selections/c"]


@pytest.mark.parametrize("gone", LEVELS)
def test_one_thing_removed(gone: str, tmp_path: Path) -> None:
    path = made_store(tmp_path)
    shutil.rmtree(path / "arrays.zarr" / gone)
    shown = page_of(path).shown
    assert "could not be made" not in shown
    assert "Not there yet" in shown or "removed" in shown
    assert ("selections/c was made by scores/s, which is no longer in the store" in shown) == (gone == "scores/s")


@pytest.mark.parametrize("broken", LEVELS)
def test_one_thing_damaged_is_named(broken: str, tmp_path: Path) -> None:
    path = made_store(tmp_path)
    for document in (path / "arrays.zarr" / broken / "zarr.json", path / "arrays.zarr" / broken / "part/copy.json"):
        document.write_text("{")
    found = report(path, html=tmp_path / "r.html", md=tmp_path / "r.md")
    assert broken in found.damaged
    assert broken in Page((tmp_path / "r.html").read_text()).shown
    assert broken in (tmp_path / "r.md").read_text().replace("\\", "")


@pytest.mark.parametrize(("name", "array"), [("datasets/pool", "row_id"), ("features/pool/ntk", "sketch"),
                                             ("scores/s", "score"), ("selections/c", "row")])  # fmt: skip
def test_damaged_rows_are_named(name: str, array: str, tmp_path: Path) -> None:
    path = made_store(tmp_path)
    for chunk in (path / "arrays.zarr" / name / array / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(chunk.read_bytes()[:-5])
    found = report(path, html=tmp_path / "r.html")
    assert name in found.damaged
    assert f"ntksel info {path} --repair" in Page((tmp_path / "r.html").read_text()).shown


def test_rows_without_their_file_keep_their_ids(tmp_path: Path) -> None:
    path = made_store(tmp_path)
    (tmp_path / "pool.jsonl").unlink()
    shown = page_of(path).shown
    assert "The texts of 'pool' can't be read" in shown
    assert "r17" in shown


def test_a_validation_shows_dose_response_and_lds() -> None:
    designs = ["base", "bin", "uniform"]
    draw = np.random.default_rng(0)
    bins = np.tile(np.arange(5), 3)
    sums = draw.normal(size=20)
    nats = np.concatenate([1 + 0.1 * bins, 2 - 0.1 * sums])
    n = len(nats)
    arrays = {
        "design": np.repeat([1, 2], [15, 20]), "score": np.repeat([0, -1], [15, 20]), "diverged": np.zeros(n),
        "bin": np.append(bins, np.full(20, -1)), "seed": np.append(np.repeat(np.arange(3), 5), np.zeros(20, int)),
        "sums": np.append(np.zeros(15), sums)[:, None], "nats": np.tile(nats[:, None], (1, 6)),
    }  # fmt: skip
    dose, lds = validation_blocks("v", arrays, {"designs": designs, "scores": ["s"]})
    assert isinstance(dose, Plot)
    assert isinstance(lds, Plot)
    np.testing.assert_allclose(dose.figure["data"][0]["x"], [1, 1.1, 1.2, 1.3, 1.4], rtol=1e-6)
    assert "rises by 0.4000 nats from best to worst" in dose.summary
    assert lds.figure["data"][0]["x"] == pytest.approx([1.0])


def test_diagnoses_are_shown_with_figures_sentences_and_plots(tmp_path: Path) -> None:
    path = made_store(tmp_path)
    stored = open_store(path)
    hostile = HOSTILE[0]
    panels: dict[str, Panel] = {
        "sketch": Lines("Sketched against exact", "size", "", [Line(hostile, [512.0, 4096.0], [0.9, 0.95], [0.8, 0.9],
                                                                    [0.95, 0.97])], log_x=True),
        "kernel": Points("Agreement", "Pearson", ["sum", hostile], [0.5, 0.7], [0.4, 0.6], [0.6, 0.8], mark=1.0),
        "supply": distributions("Nearness", "nearness", {"pool": [0.1, 0.2, 0.3], hostile: [0.9]}, cut=0.5),
    }  # fmt: skip
    for i, (check, panel) in enumerate(panels.items()):
        one = Check(check, hostile, 0.25 + i, 0.125, 0.5, f"{check} says so. {hostile}")
        options = {"pool": "pool", "domain": "domain", "dims": (512, 4096), "run": ("a", "b"), "thinking": False,
                   "trust_remote_code": True, "n": 9, "eval_name": "e", "columns": {"prompt": "q"}}  # fmt: skip
        keep(stored, check, Finding((one,), (panel,), {"i": i}), options=options, progress=Silent())
    found = report(path, html=tmp_path / "r.html", md=tmp_path / "r.md")
    assert "diagnoses" not in found.missing
    made = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "<script>document" not in "".join(said for attrs, said in made.scripts if attrs)
    figures = [json.loads(said) for attrs, said in made.scripts if attrs.get("type") == "application/json"]
    kernel, sketch, supply = figures[4:]
    assert kernel["data"][0]["x"] == [0.5, 0.7]
    assert sketch["data"][0]["error_y"]["array"] == pytest.approx([0.05, 0.02])
    assert sketch["layout"]["xaxis"]["tickvals"] == [1000, 2000]
    assert [trace["name"] for trace in supply["data"]] == ["pool", plot_label(hostile)]
    for check in panels:
        assert f"{check} says so. {hostile}" in made.shown
    line = (
        f"ntksel diagnose {path} sketch --pool pool --domain domain --run a --run b --eval e -n 9 --dims 512,4096 "
        "--columns prompt=q --thinking off --trust-remote-code"
    )
    assert line in made.shown
    assert "kernel says so. " in (tmp_path / "r.md").read_text()


def test_of_a_diagnosis_the_newest_results_are_shown(tmp_path: Path) -> None:
    stored = open_store(tmp_path / "med", create=True)
    panel = Points("t", "y", ["a"], [0.5], [0.4], [0.6])
    for i in range(5):
        check = Check("kernel", f"subject {i}", 0.5, 0.4, 0.6, f"Sentence {i}.")
        keep(stored, "kernel", Finding((check,), (panel,), {"i": i}), options={}, progress=Silent())
        (made,) = {one.name for one in stored.artefacts() if one.attrs["checks"][0]["subject"] == f"subject {i}"}
        for each in (stored.artefact_path(made)).rglob("*"):
            os.utime(each, (1_700_000_000 + i, 1_700_000_000 + i))
    shown = page_of(tmp_path / "med").shown
    assert [i for i in range(5) if f"Sentence {i}." in shown] == [2, 3, 4]
    assert "2 older results of diagnose kernel are not shown" in shown


def test_a_random_baseline_is_not_what_is_shown(tmp_path: Path) -> None:
    path = made_store(tmp_path)
    stored = open_store(path)
    draws = np.random.default_rng(9).normal(size=200)
    drawn = add_selection(stored, add_score(stored, "pool", draws, name="chance", method="random"), 12, name="drawn")
    later = max(each.stat().st_mtime for each in path.rglob("*")) + 100
    for each in stored.artefact_path(drawn.name).rglob("*"):
        os.utime(each, (later, later))
    facts = collect(stored)
    assert facts.selection is not None
    assert facts.selection.name == "selections/c"
    assert collect(stored, selection="drawn").selection.name == "selections/drawn"  # type: ignore[union-attr]
    shutil.rmtree(stored.artefact_path("selections/c"))
    assert collect(stored).selection.name == "selections/drawn"  # type: ignore[union-attr]


def test_a_file_of_another_is_kept(tmp_path: Path) -> None:
    path = made_store(tmp_path, n=70)
    mine = tmp_path / "mine.html"
    mine.write_text("<html>my own</html>")
    with pytest.raises(UsageError, match="--force"):
        report(path, html=mine)
    assert mine.read_text() == "<html>my own</html>"
    report(path, html=mine, force=True)
    report(path, html=mine)  # our own is replaced
    with pytest.raises(UsageError, match="no folder"):
        report(path, html=tmp_path / "no/r.html")
    with pytest.raises(UsageError, match="the input"):
        report(path, html=tmp_path / "pool.jsonl", force=True)
    with pytest.raises(UsageError, match="two names"):
        report(path, html=mine, md=mine)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntkcli.steps.reports.report.find_spec", lambda name: None)
    open_store(tmp_path / "med", create=True)
    with pytest.raises(UsageError, match=re.escape("pip install 'ntksel[report]'")):
        report(tmp_path / "med")


def large(folder: Path, n: int) -> Path:
    """A store of `n` scored rows; the file has short rows."""
    path = folder / "med"
    stored = open_store(path, create=True)
    register_data(stored, name="pool", data=write_pool(folder / "pool.jsonl", n))
    values = np.random.default_rng(0).normal(size=n)
    add_selection(stored, add_score(stored, "pool", values), n // 20)
    return path


def test_a_hundred_thousand_rows_are_sampled(tmp_path: Path) -> None:
    path = large(tmp_path, 100_000)
    found = report(path, html=tmp_path / "r.html")
    assert found.bytes < 6_000_000
    made = Page((tmp_path / "r.html").read_text())
    assert "Of 100,000 scored rows" in made.shown
    assert len(made.all("tr")) < 300


@pytest.mark.slow
def test_a_million_rows_take_less_than_a_minute(tmp_path: Path) -> None:
    import time

    path = tmp_path / "med"
    stored = open_store(large(tmp_path, 1_000_000))
    dataset = stored.get("datasets/pool")
    arrays = {"sketch": store.ArraySpec("float16", (256,)), "norm": store.ArraySpec("float32"),
              "tokens": store.ArraySpec("int32")}  # fmt: skip
    features = stored.create(
        "features/pool/ntk", kind="features", spec={"kind": "ntk"}, parents={dataset.name: dataset.fingerprint},
        n=1_000_000, part_rows=8192, arrays=arrays,
    )  # fmt: skip
    draw = np.random.default_rng(1)
    for i in features.pending():
        start, stop = features.part_bounds(i)
        ones = np.ones(stop - start)
        unit = draw.normal(size=(stop - start, 256)).astype(np.float16)
        features.write_part(i, {"sketch": unit, "norm": ones.astype(np.float32), "tokens": ones.astype(np.int32)})
    began = time.monotonic()
    found = report(path, html=tmp_path / "r.html")
    assert time.monotonic() - began < 60
    assert found.bytes < 15_000_000
    shown = Page((tmp_path / "r.html").read_text()).shown
    assert re.search(r"A sample: [67]\d\d of 1,000,000 pool rows", shown)
