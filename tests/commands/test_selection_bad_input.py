"""What can't be scored or selected: one line with what, where and the fix, and nothing is left in the store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ntkcli.api import score
from ntkcli.app import flag_of
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.scoring.kit import add_data, add_features, make_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path, *_ = make_store(tmp_path)
    add_data(path, "other", [{"prompt": f"o {i}", "completion": "c"} for i in range(9)])
    add_data(path, "bare", [{"prompt": "b", "completion": "c"}])
    add_features(path, "bare", np.ones((1, 8)), missing=[0])
    score(path, pool="pool", domain="domain", method="cosine", feature="embed", name="x")
    score(path, pool="other", method="random", name="of-other")
    return path


POOL = ("--pool", "pool", "--feature", "embed", "--name", "new")
SCORE_REFUSED = [
    ((*POOL, "--domain", "bare", "--method", "cosine"), "no row with features in the group 'bare'"),
    ((*POOL, "--domain", "domain", "--method", "votes", "-k", "60"), "-k 60: features/pool/embed has 59 rows"),
    ((*POOL, "--domain", "nothing", "--method", "max"), "nothing"),
    ((*POOL, "--method", "max"), "--domain is missing"),
    ((*POOL, "--domain", "bare", "--method", "votes", "--group-by", "source"), "no row of bare has a source. Leave"),
    (("--combine", "x", "--combine", "of-other", "--name", "new"), "Give scores of the same pool"),
    (("--compare", "x", "--compare", "of-other"), "Give scores of the same pool"),
    (("--pool", "pool", "--method", "random", "--match-length", "other", "--name", "new"), "no token counts"),
]


@pytest.mark.parametrize(("options", "text"), SCORE_REFUSED)
def test_score_refuses(options: tuple[str, ...], text: str, path: Path, cli: Cli) -> None:
    ran = cli("score", path, *options)
    assert ran.code in (2, 10, 1, 12), ran.err
    assert text in ran.error_line
    assert open_store(path).find("scores/new") is None


SELECT_REFUSED = [
    (("-n", "5", "--exponent", "0.3"), "--exponent does not apply to --method top"),
    (("-n", "60"), "-n 60: scores/x has 59 scored rows of 60"),
    (("-n", "50", "--max-per-source", "12"), "--max-per-source leaves 36 of 59 rows, 14 too few"),
    (("-n", "9", "--max-per-source", "a=2", "--min-per-source", "a=3"), "--max-per-source allows 2"),
    (("-n", "9", "--min-per-source", "a=9", "--token-budget", "9"), "--token-budget's 9 tokens"),
    (("-n", "10", "--max-tokens", "1"), "--max-tokens took"),
    (("-n", "9", "--exclude", "gone.txt"), "gone.txt: no such file"),
    (("-n", "9", "--against", "gone.jsonl"), "gone.jsonl: no such file"),
]


@pytest.mark.parametrize(("options", "text"), SELECT_REFUSED)
def test_select_refuses(options: tuple[str, ...], text: str, path: Path, cli: Cli) -> None:
    ran = cli("select", path, "--score", "x", "--name", "new", *options)
    assert ran.code == 2, ran.err
    assert text in ran.error_line
    assert open_store(path).find("selections/new") is None


def test_rows_without_features_are_counted_and_never_chosen(path: Path, cli: Cli) -> None:
    ran = cli("score", path, "--pool", "pool", "--domain", "domain", "--method", "max", "--feature", "embed",
              "--name", "m", "--json")  # fmt: skip
    assert (json.loads(ran.out)["scored"], json.loads(ran.out)["rows"]) == (59, 60)
    assert cli("select", path, "--score", "m", "-n", "59", "--name", "all").code == 0
    assert 5 not in open_store(path).get("selections/all").read("row")


VOTES = ("--pool", "pool", "--feature", "embed", "--domain", "domain", "--method", "votes", "--name", "votes")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("-k", "4", "--group-by", "source"), "(-k)."),
        (("-k", "3", "--group-by", "source", "--across", "mean"), "(--across)."),
        (("-k", "3"), "(--domain or --feature, --group-by)."),
    ],
)
def test_a_score_with_other_settings_names_the_options(
    options: tuple[str, ...], named: str, path: Path, cli: Cli
) -> None:
    assert cli("score", path, *VOTES, "-k", "3", "--group-by", "source").code == 0
    ran = cli("score", path, *VOTES, *options)
    assert ran.code == 12
    assert ran.error_line.endswith(named)


def test_what_changed_below_a_selection_is_not_called_an_option(path: Path, cli: Cli) -> None:
    assert cli("select", path, "--score", "of-other", "-n", "5", "--name", "rows").code == 0
    assert cli("rm", path, "scores/of-other", "--force").code == 0
    assert cli("score", path, "--pool", "other", "--method", "random", "--seed", "7", "--name", "of-other").code == 0
    ran = cli("explain", path, "rows", "0")
    assert ran.code == 12
    assert ran.error_line.endswith("or make it under another name.")


def test_every_field_of_a_refusal_leads_to_an_option_or_to_none() -> None:
    assert flag_of("probe_seed") == "--seed"
    assert flag_of("features") == "--feature"
    assert flag_of("folds.by") == "--by"
    assert flag_of("adapter.weights", kind="evals") == "--run"
    assert flag_of("adapter.weights", kind="features") == "--adapter"
    for field in ("version", "encoder.version", "projection.version", "method_version", "exact", "parents.scores/x"):
        assert flag_of(field) is None
