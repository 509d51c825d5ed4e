"""Arms over seeds and tasks: against scipy, statsmodels, closed forms, and what the sentences claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from ntkcli.statistics import AVERAGE, ArmScore, TaskItems, compare_arms, group_seeds, holm
from ntkcli.statistics.resampling import seed_weights

DRAW = np.random.default_rng(7)
BASE = (DRAW.random(400) < 0.5).astype(float)
BETTER = np.where(DRAW.random(400) < 0.75, BASE, DRAW.random(400) < 0.75).astype(float)


def flipped(values: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Right-or-wrong answers of which a share is drawn anew."""
    draw = np.random.default_rng(seed)
    return np.where(draw.random(len(values)) < share, draw.random(len(values)) < 0.5, values).astype(float)


def score_of(found: tuple[ArmScore, ...], arm: str, task: str = "t") -> ArmScore:
    return next(score for score in found if (score.arm, score.task) == (arm, task))


def test_one_seed_is_scipys_paired_bootstrap_and_statsmodels_mcnemar() -> None:
    found = compare_arms({"t": TaskItems({"base": {"": BASE}, "better": {"": BETTER}})}, baseline="base")
    difference = score_of(found.scores, "better").difference
    assert difference is not None
    assert difference.value == pytest.approx(BETTER.mean() - BASE.mean())
    expected = stats.bootstrap(
        (BETTER, BASE), lambda a, b, axis: a.mean(axis) - b.mean(axis), paired=True, method="percentile", rng=1
    ).confidence_interval
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high), abs=0.006)
    table = [[(BETTER * BASE).sum(), (BETTER * (1 - BASE)).sum()], [((1 - BETTER) * BASE).sum(), 0]]
    assert difference.test == "McNemar"
    assert difference.p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue, rel=1e-9)
    assert score_of(found.scores, "base").difference is None


@pytest.mark.parametrize("p_values", [[0.01], [0.04, 0.01, 0.03, 0.2], [0.5, 0.9], [0.02, 0.02, 0.02], []])
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="holm")[1] if p_values else []
    assert holm(p_values) == pytest.approx(list(expected))


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_seeds_vary_as_their_mean_does(n_seeds: int) -> None:
    """The resampled mean of the seeds has the unbiased variance s²/S (to 5%, of 20,000 draws)."""
    seeds = np.random.default_rng(n_seeds).random(n_seeds)
    drawn = seed_weights(n_seeds, np.random.default_rng(0), resamples=20_000) @ seeds
    assert drawn.mean() == pytest.approx(seeds.mean(), abs=0.01)
    assert drawn.var() == pytest.approx(seeds.var(ddof=1) / n_seeds, rel=0.05)


def test_several_seeds_widen_the_interval_by_their_spread() -> None:
    """Items and seeds both count: the interval's width is that of the sum of both variances."""
    n = 2000
    draw = np.random.default_rng(0)
    runs = {str(s): (draw.random(n) < share).astype(float) for s, share in enumerate((0.5, 0.6, 0.7))}
    found = compare_arms({"t": TaskItems({"base": {"": np.zeros(n)}, "arm": runs})}, baseline="base")
    score = score_of(found.scores, "arm")
    means = np.array([values.mean() for values in runs.values()])
    items_variance = np.stack(list(runs.values())).mean(axis=0).var() / n
    expected = 2 * 1.96 * math.sqrt(items_variance + means.var(ddof=1) / 3)
    assert score.value == pytest.approx(means.mean())
    assert score.spread == pytest.approx(means.std(ddof=1))
    assert score.seeds == pytest.approx(dict(zip("012", means, strict=True)))
    assert score.high - score.low == pytest.approx(expected, rel=0.15)
    assert score.difference is not None
    assert score.difference.test == "bootstrap"


def test_the_average_over_tasks_has_the_variance_of_independent_tasks() -> None:
    tasks = {f"t{i}": TaskItems({"base": {"": flipped(BASE, 1, i)}, "x": {"": BETTER}}) for i in range(4)}
    found = compare_arms(tasks, baseline="base")
    average = score_of(found.scores, "base", AVERAGE)
    single = score_of(found.scores, "base", "t0")
    assert average.value == pytest.approx(np.mean([score_of(found.scores, "base", f"t{i}").value for i in range(4)]))
    assert average.n == 1600
    assert average.high - average.low == pytest.approx((single.high - single.low) / 2, rel=0.06)


def test_an_average_by_weight_is_that_of_all_items_and_errors_are_no_shares_of_it() -> None:
    """Weighted by their sizes, tasks have the mean and the interval of one task of all their items (by closed form)."""
    parts = {"a": slice(0, 300), "b": slice(300, 400)}
    tasks = {name: TaskItems({"base": {"": BASE[at]}, "better": {"": BETTER[at]}}) for name, at in parts.items()}
    errors = {arm: {"": 1 - values} for arm, values in (("base", BASE), ("better", BETTER))}
    tasks["errors"] = TaskItems(errors, higher_is_better=False)
    found = compare_arms(
        tasks, baseline="base", averages={"sized": {"a": 300.0, "b": 100.0}, "alike": ["a", "b", "errors"]}
    )
    sized = score_of(found.scores, "better", "sized")
    assert sized.value == pytest.approx(BETTER.mean())
    deviation = math.sqrt(
        sum((len(BETTER[at]) / 400) ** 2 * BETTER[at].var() / len(BETTER[at]) for at in parts.values())
    )
    assert sized.high - sized.low == pytest.approx(2 * 1.96 * deviation, rel=0.05)
    alike = score_of(found.scores, "base", "alike")
    assert alike.value == pytest.approx((BASE[:300].mean() + BASE[300:].mean()) / 2), "an error rate is no share of it"
    assert "better beats base on errors" in " ".join(found.sentences)


def test_weighted_items_are_a_ratio_of_sums() -> None:
    """The loss: nats an item divided by its tokens, weighted by tokens, against scipy's bootstrap of the ratio."""
    draw = np.random.default_rng(3)
    tokens = draw.integers(1, 30, 300).astype(float)
    nats = tokens * draw.gamma(2.0, 1.0, 300)
    items = TaskItems({"base": {"": nats / tokens}}, weights=tokens, higher_is_better=False, percent=False, unit="nats")
    score = compare_arms({"t": items}, baseline="base").scores[0]
    assert score.value == pytest.approx(nats.sum() / tokens.sum())
    expected = stats.bootstrap(
        (nats, tokens), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, method="percentile", rng=1
    ).confidence_interval
    assert (score.low, score.high) == pytest.approx((expected.low, expected.high), rel=0.01)


def test_an_arms_numbers_do_not_depend_on_the_others() -> None:
    arms = {"base": {"": BASE}, "a": {"0": BETTER, "1": flipped(BETTER, 0.1, 1)}}
    alone = compare_arms({"t": TaskItems(arms)}, baseline="base")
    beside = compare_arms({"t": TaskItems({**arms, "z": {"": BASE}})}, baseline="base")
    one, other = (score_of(found.scores, "a") for found in (alone, beside))
    assert (one.low, one.high) == (other.low, other.high)
    assert one.difference is not None
    assert other.difference is not None
    assert (one.difference.low, one.difference.p) == (other.difference.low, other.difference.p)
    assert other.difference.p_holm >= one.difference.p_holm


def test_sentences_say_what_is_shown_and_what_is_not() -> None:
    same = {"0": flipped(BASE, 0.05, 1), "1": flipped(BASE, 0.05, 2), "2": flipped(BASE, 0.05, 3)}
    arms = {"random": {"": BASE}, "mixed": {"": BETTER}, "same": same, "worse": {"": BASE * (DRAW.random(400) < 0.5)}}
    found = compare_arms({"t": TaskItems(arms)}, baseline="random")
    mixed = score_of(found.scores, "mixed").difference
    assert mixed is not None
    assert found.sentences[0] == (
        f"mixed beats random by {100 * mixed.value:.1f} points, 95% {100 * mixed.low:.1f} to {100 * mixed.high:.1f}, "
        "1 seed."
    )
    assert found.sentences[1].startswith("No difference shown between same and random: ")
    assert found.sentences[1].endswith(", 3 seeds.")
    assert found.sentences[2].startswith("worse is worse than random by ")


def test_many_arms_make_one_small_p_no_finding() -> None:
    """An interval that leaves out 0 is not said to beat when 40 arms were tried: Holm's p decides."""
    slight = BASE.copy()
    wrong = np.flatnonzero(BASE == 0)
    slight[wrong[:9]], slight[np.flatnonzero(BASE == 1)[:1]] = 1, 0
    few = compare_arms({"t": TaskItems({"base": {"": BASE}, "slight": {"": slight}})}, baseline="base")
    assert few.sentences[0].startswith("slight beats base by 2.0 points")
    others = {f"other{i}": {"": flipped(BASE, 0.2, i)} for i in range(40)}
    many = compare_arms({"t": TaskItems({"base": {"": BASE}, "slight": {"": slight}, **others})}, baseline="base")
    assert many.sentences[0].startswith("No difference shown between slight and base: +2.0 points")
    assert "corrected for the arms compared" in many.sentences[0]


def test_a_lower_loss_is_better() -> None:
    low = {"base": {"": np.full(50, 2.0) + np.arange(50) / 50}, "tuned": {"": np.full(50, 1.0) + np.arange(50) / 50}}
    items = TaskItems(low, higher_is_better=False, percent=False, unit="nats a token")
    assert compare_arms({"t": items}, baseline="base").sentences == (
        "tuned beats base by 1.000 nats a token, 95% 1.000 to 1.000, 1 seed.",
    )


def test_refused() -> None:
    items = TaskItems({"a": {"": BASE}})
    for tasks, baseline, match in [
        ({}, "a", "no task"),
        ({"t": items}, "b", "not one of the arms"),
        ({"t": items, "u": TaskItems({"b": {"": BASE}})}, "a", "has the arms"),
        ({"t": TaskItems({"a": {"": BASE, "1": BASE[:3]}})}, "a", "not the same"),
    ]:
        with pytest.raises(ValueError, match=match):
            compare_arms(tasks, baseline=baseline)


def test_seeds_by_name() -> None:
    assert group_seeds(["base", "mixed.s0", "mixed.s1", "x.s2.y", "v1.s3"]) == {
        "base": {"": "base"},
        "mixed": {"0": "mixed.s0", "1": "mixed.s1"},
        "x.s2.y": {"": "x.s2.y"},
        "v1": {"3": "v1.s3"},
    }
    assert group_seeds(["a", "a.s1"]) == {"a": {"": "a"}, "a.s1": {"": "a.s1"}}
