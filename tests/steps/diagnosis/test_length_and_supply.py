"""Length and supply on stores whose truth is known: scores that are lengths, pools that are half of the domain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import store
from ntkcli.errors import DataError, IncompleteError, UsageError
from ntkcli.finite import finite
from ntkcli.progress import Silent
from ntkcli.steps.diagnosis.diagnose import diagnose
from ntkcli.steps.diagnosis.findings import (
    Check,
    Distributions,
    Finding,
    Line,
    Lines,
    Points,
    distributions,
)
from ntkcli.steps.diagnosis.keep import keep, kept
from ntkcli.steps.diagnosis.plot import log_ticks, write_plot
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.lengths import lengths, settle_encoding
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.upkeep.remove import remove
from tests.conftest import prompt_rows, write_rows
from tests.steps.diagnosis.kit import half_domain
from tests.steps.validation.kit import add_score


@pytest.fixture
def scored(tmp_path: Path, model_dir: Path) -> tuple[Path, np.ndarray]:
    """A pool of rows with scores that are their lengths, the opposite, chance, and lengths of half of the rows."""
    stored = open_store(tmp_path / "s", create=True)
    rows = [{**row, "prompt": row["prompt"] * (1 + i % 9)} for i, row in enumerate(prompt_rows(200))]
    register_data(stored, name="pool", data=write_rows(tmp_path / "pool.jsonl", rows))
    encoding = settle_encoding(stored, "pool", option="test", tokens_of=str(model_dir))
    tokens = lengths(stored, "pool", encoding).astype(np.float64)
    half = np.where(np.arange(200) % 2, tokens, np.nan)
    chance = np.random.default_rng(0).random(200)
    for name, values in {"long": tokens, "short": -tokens, "chance": chance, "half": half}.items():
        add_score(stored, name, values)
    return tmp_path / "s", tokens


def test_the_advice_leaves_out_what_the_score_does_already(scored: tuple[Path, np.ndarray]) -> None:
    store_path, tokens = scored
    stored = open_store(store_path)
    add_score(stored, "raw", tokens, method="cosine", centre=False)
    add_score(stored, "centred", tokens, method="cosine", centre=True)
    add_score(stored, "drawn", tokens, method="random", match_length="0" * 32)
    found, _ = diagnose(store_path, check="length")
    said = {one.subject: one.sentence for one in found.checks}
    assert said["raw"].endswith("(`score --method random --match-length`), and try `--method cosine --centre`.")
    assert said["centred"].endswith(
        "compare with random rows of the same lengths (`score --method random --match-length`)."
    )
    assert said["drawn"].endswith("So longer rows score higher.")


def test_a_score_that_is_the_length_has_spearman_1(scored: tuple[Path, np.ndarray]) -> None:
    store_path, tokens = scored
    stored = open_store(store_path)
    register_data(stored, name="other", data=write_rows(store_path.parent / "other.jsonl", prompt_rows(5)))
    add_score(stored, "uncounted", np.arange(5.0), data="other")
    found, panels = diagnose(store_path, check="length")  # the counts that the store has
    assert found.left_out.keys() == {"scores/uncounted"}
    checks = {one.subject: one for one in found.checks}
    assert checks.keys() == {"long", "short", "chance", "half"}
    assert (checks["long"].value, checks["long"].low, checks["long"].high) == (1.0, 1.0, 1.0)
    assert checks["short"].value == -1.0
    assert checks["half"].value == 1.0
    assert checks["half"].details["rows"] == 100
    assert checks["long"].details["mean_tokens_of_best_tenth"] == pytest.approx(np.sort(tokens)[-20:].mean())
    assert "strongly follows length" in checks["long"].sentence
    assert "longer rows score higher" in checks["long"].sentence
    assert "shorter rows score higher" in checks["short"].sentence
    (panel,) = panels
    assert isinstance(panel, Lines)
    line = next(line for line in panel.lines if line.label == "long")
    assert list(line.y) == sorted(line.y)
    assert list(line.x) == sorted(line.x)


def test_results_are_kept_and_go_with_what_they_were_made_from(scored: tuple[Path, np.ndarray]) -> None:
    store_path, _ = scored
    stored = open_store(store_path)
    before = {made.name for made in stored.artefacts()}
    found, panels = diagnose(store_path, check="length")
    (name,) = {made.name for made in stored.artefacts()} - before
    result = stored.get(name)
    assert finite(kept(result)) == finite((found.checks, panels))
    assert set(result.parents) == {made.name for made in stored.artefacts(store.Kind.SCORE)}
    digest = result.digest()
    diagnose(store_path, check="length")
    assert stored.get(name).digest() == digest
    diagnose(store_path, check="length", score=("chance",))  # of fewer scores it is another result
    assert len({made.name for made in stored.artefacts()} - before) == 2
    stored.get(name).note(checks=[])  # worded otherwise, by another version
    diagnose(store_path, check="length")
    assert kept(stored.get(name))[0] == found.checks
    gone = remove(store_path, ["scores/chance"]).removed
    assert {made.name for made in stored.artefacts()} == before - {"scores/chance"}
    assert name in gone


def test_a_store_that_cannot_be_written_still_gets_its_figures(
    scored: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "s")

    monkeypatch.setattr(store.Store, "create", refuse)
    found, _ = diagnose(scored[0], check="length", score=("chance",), progress=Notes())
    assert [one.subject for one in found.checks] == ["chance"]
    assert "not kept for `ntksel report`" in notes[-1]


def test_figures_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    stored = open_store(tmp_path / "s", create=True)
    check = Check("kernel", "sum", 0.5, float("nan"), float("nan"), "S.", {"lowest": float("nan")})
    panel = Points("t", "y", ["sum"], [0.5], [float("nan")], [0.7])
    keep(stored, "kernel", Finding((check,), (panel,), {}), options={"pool": tmp_path}, progress=Silent())
    (made,) = stored.artefacts()
    (one,), (drawn,) = kept(made)
    assert np.isnan([one.low, one.high]).all()
    assert isinstance(drawn, Points)
    assert np.isnan(drawn.lows[0])
    assert one.details == {"lowest": None}
    assert made.attrs["options"] == {"pool": str(tmp_path)}


def test_a_score_of_chance_is_scipys_figure(scored: tuple[Path, np.ndarray]) -> None:
    store_path, tokens = scored
    found, _ = diagnose(store_path, check="length", score=("chance",))
    (check,) = found.checks
    value = open_store(store_path).get("scores/chance").read("score")
    assert check.value == pytest.approx(stats.spearmanr(value, tokens).statistic)
    assert check.low < 0 < check.high
    assert "hardly follows length" in check.sentence


def test_length_without_scores_or_counts_is_told(tmp_path: Path) -> None:
    stored = open_store(tmp_path / "s", create=True)
    with pytest.raises(IncompleteError, match="no finished score"):
        diagnose(tmp_path / "s", check="length")
    register_data(stored, name="pool", data=write_rows(tmp_path / "pool.jsonl", prompt_rows(4)))
    add_score(stored, "s", np.arange(4.0))
    for given in ({}, {"score": ("s",)}):
        with pytest.raises(IncompleteError, match="--tokens-of MODEL"):
            diagnose(tmp_path / "s", check="length", **given)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.0])
def test_the_share_of_the_domain_in_the_pool_is_found(tmp_path: Path, share: float) -> None:
    store_path = half_domain(tmp_path, share=share)
    found, panels = diagnose(store_path, check="supply", pool="pool", domain="domain", feature="made", rows=200)
    (check,) = found.checks
    assert check.low <= 400 * share <= check.high + 8  # by definition 5% of the domain's own rows are not near
    assert check.value == pytest.approx(400 * share, abs=32)
    assert check.details["pool_rows"] == 400
    assert check.details["sample"] == 200
    assert isinstance(panels[0], Distributions)
    assert panels[0].cut == check.details["threshold"]


def test_whether_the_rows_asked_for_are_there(tmp_path: Path) -> None:
    given = {"check": "supply", "pool": "pool", "domain": "domain", "feature": "made"}
    store_path = half_domain(tmp_path)
    enough = {n: diagnose(store_path, n=n, **given)[0].checks[0].details["enough"] for n in (50, 300)}
    assert enough == {50: "yes", 300: "no"}
    sentence = diagnose(store_path, n=300, **given)[0].checks[0].sentence
    assert "fewer than 300 near rows: give -n" in sentence


def test_a_pool_that_is_all_domain_is_called_so(tmp_path: Path) -> None:
    store_path = half_domain(tmp_path, share=1.0, pool=200)
    found, _ = diagnose(store_path, check="supply", pool="pool", domain="domain", feature="made")
    assert found.checks[0].value > 170
    assert "Random rows may do as well" in found.checks[0].sentence


def test_a_domain_of_few_rows_is_refused(tmp_path: Path) -> None:
    store_path = half_domain(tmp_path, domain=6)
    with pytest.raises(DataError, match="6 rows with features"):
        diagnose(store_path, check="supply", pool="pool", domain="domain", feature="made")


def test_options_of_another_diagnosis_are_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "s", create=True)
    with pytest.raises(UsageError, match="--near does not apply to diagnose length"):
        diagnose(tmp_path / "s", check="length", near=5.0)
    with pytest.raises(UsageError, match="--model or --feature is missing"):
        diagnose(tmp_path / "s", check="supply", pool="p", domain="d")
    with pytest.raises(UsageError, match=r"No check can run with these options .*length: .*no finished score"):
        diagnose(tmp_path / "s", check="all")


def test_ticks_are_round_numbers() -> None:
    assert log_ticks([48.0, 130.0, 70.0]) == [50.0, 100.0]
    assert log_ticks([512.0, 16384.0]) == [1000.0, 2000.0, 5000.0, 10000.0]
    assert log_ticks([3.0, 4.0]) == [3.0, 4.0]
    assert log_ticks([46.5, 94.1]) == [50.0, 60.0, 70.0, 80.0, 90.0]
    assert log_ticks([7.0]) == [7.0]


def test_every_kind_of_panel_is_drawn(tmp_path: Path) -> None:
    panels = [
        Lines("a $title", "x", "y", [Line("$b_0", [1.0, 10.0], [0.1, 0.2], [0.0, 0.1], [0.2, 0.3]),
                                     Line("c", [1.0, 2.0], [0.3, 0.2])], log_x=True),
        Points("p", "y", ["one", "two$"], [0.5, 0.6], [0.4, 0.6], [0.6, 0.7], mark=1.0),
        distributions("d", "x", {"pool": [0.1, 0.2, 0.3], "domain": [0.9]}, cut=0.5),
    ]  # fmt: skip
    write_plot(tmp_path / "all.svg", panels)
    drawn = (tmp_path / "all.svg").read_text()
    assert drawn.count('id="axes_') == 3
    assert json.loads((tmp_path / "all.svg.manifest.json").read_text())["kind"] == "diagnosis"
