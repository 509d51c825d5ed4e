"""Which texts say the same, in every script and form; held against all pairs compared one by one."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkcli.selection import alike, kept
from ntkcli.selection.alike import Alike
from ntkcli.selection.duplicates import NEAR, SHINGLE_WORDS, normalised
from ntkcli.selection.likeness import Known, comparable, key_of
from ntkcli.selection.partition import Components, assign
from tests.conftest import WORDS

SAME = [
    ("May I copy this?", "may I copy this"),
    ("May I copy this?", "".join(chr(ord(c) + 0xFEE0) if c != " " else "\u3000" for c in "May I copy this?")),
    ("the ﬁle", "the file"),  # a ligature
    ("caf\u00e9 au lait", "cafe\u0301 au lait"),  # composed or not
    ("copy this", "co\u200bpy\u00ad th\u200dis"),  # zero-width space, soft hyphen, joiner
    ("STRASSE", "straße"),
    ("我可以复制这个吗\uff1f", "我可以复制这个吗"),
    ("😀😀", "😀😀"),
]
OTHER = [("copy this", "copy that"), ("😀😀", "😀"), ("!!!", "???"), ("我可以复制", "我可以粘贴"), ("", " a ")]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_words(a: str, b: str) -> None:
    assert key_of(a) == key_of(b)


@pytest.mark.parametrize(("a", "b"), OTHER)
def test_other_words(a: str, b: str) -> None:
    assert key_of(a) != key_of(b)


def test_scripts_without_spaces_have_near_duplicates() -> None:
    text = "软件可以在任何地方使用而无需支付费用但必须保留版权声明和许可声明的全部副本" * 2
    assert Known([text], [None]).is_near(text.replace("费用", "报酬", 1), None)
    assert not Known([text], [None]).is_near(text[:20] + "今天天气很好我们去公园散步吧" * 3, None)


def join(found: Components, texts: Sequence[str], prompts: Sequence[str | None]) -> None:
    rows = Alike()
    for text, prompt in zip(texts, prompts, strict=True):
        rows.add(text, prompt)
    rows.join(found)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = normalised(comparable(text))
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))}


def test_joined_rows_are_those_of_all_pairs() -> None:
    """The closure of pairs with a Jaccard similarity of at least 0.8, or the same prompt, whatever the order."""
    draw = random.Random(1)
    texts: list[str] = []
    for _ in range(12):
        words = draw.choices(WORDS, k=40)
        for _ in range(draw.randint(1, 4)):  # a chain: each differs from the one before in one word
            words = [*words]
            words[draw.randrange(40)] = f"w{draw.random()}"
            texts.append(" ".join(words))
    prompts = [f"is this prompt {i % 30} long enough to be a question" for i in range(len(texts))]
    truth = list(range(len(texts)))
    for a, b in itertools.combinations(range(len(texts)), 2):
        one, other = shingles(texts[a]), shingles(texts[b])
        if len(one & other) / len(one | other) >= NEAR or prompts[a] == prompts[b]:
            truth = [truth[a] if each == truth[b] else each for each in truth]
    assert len(set(truth)) < len(texts) - 3
    for _ in range(3):
        order = draw.sample(range(len(texts)), len(texts))
        found = Components(len(texts))
        join(found, [texts[i] for i in order], [prompts[i] for i in order])
        labels = found.labels()
        for a, b in itertools.combinations(range(len(texts)), 2):
            assert (labels[order.index(a)] == labels[order.index(b)]) == (truth[a] == truth[b])


TEMPLATE = "Read the text and answer with one word from the list that was given to you above as shortly as you can: "


def test_a_template_makes_no_duplicates() -> None:
    """Texts behind a long instruction: different ones are apart, near-duplicates together."""
    draw = random.Random(3)
    bodies = [" ".join(f"w{draw.randrange(500)}" for _ in range(30)) for _ in range(20)]
    bodies.append(bodies[4] + " more")
    short = [f"item {i} {i * i}" for i in range(20)]
    for texts in (bodies, short):
        found = Components(len(texts))
        join(found, [TEMPLATE * 3 + text for text in texts], [None] * len(texts))
        assert len(set(found.labels())) == 20
    known = Known([TEMPLATE * 3 + text for text in bodies], [None] * len(bodies))
    assert known.is_near(TEMPLATE * 3 + bodies[2] + " again", None)
    assert not known.is_near(TEMPLATE * 3 + " ".join(f"x{i}" for i in range(30)), None)


def test_a_text_takes_two_hundred_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a row's words nothing is held, however long they are; also in many rows that meet in bands and differ."""
    monkeypatch.setattr(alike, "SAMPLE_ROWS", 10)
    monkeypatch.setattr(kept, "BUFFER_BYTES", 1 << 12)
    words = [f"w{i}" for i in range(1000)]
    rows = Alike()
    tracemalloc.start()
    for i in range(300):
        rows.add(" ".join([*words[: 700 + i % 3], *(f"x{i}-{j}" for j in range(200))]), None)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held / 300 < 200 + 2 * kept.BUFFER_BYTES / 300
    found = Components(300)
    monkeypatch.setattr(alike, "_PAIRS_KEPT", 3)  # all that is forgotten is compared again
    rows.join(found)
    assert len(set(found.labels())) == 300


def test_short_prompts_join_nothing() -> None:
    found = Components(2)
    join(found, ["Summarise: red", "Summarise: blue"], ["Summarise:", "Summarise:"])
    assert not found.same(0, 1)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 30), min_size=5, max_size=60), st.integers(2, 5))
def test_sides_are_full_and_balanced(sizes: list[int], k: int) -> None:
    counts = np.array(sorted(sizes, reverse=True), dtype=np.int64)[:, None]
    side = assign(counts, [1 / k] * k)
    rows = np.bincount(side, weights=counts[:, 0], minlength=k)
    assert (np.bincount(side, minlength=k) > 0).all()
    assert rows.max() - rows.min() <= max(sizes)


@settings(max_examples=60)
@given(st.integers(10, 300), st.floats(0.05, 0.95), st.integers(1, 4))
def test_single_rows_give_the_share_in_every_stratum(n: int, share: float, strata: int) -> None:
    counts = np.zeros((n, strata), dtype=np.int64)
    counts[np.arange(n), np.random.default_rng(n).integers(0, strata, n)] = 1
    side = assign(counts, [share, 1 - share])
    assert np.abs(counts[side == 0].sum(axis=0) - share * counts.sum(axis=0)).max() <= 1


def test_too_few_components_are_no_sides() -> None:
    with pytest.raises(ValueError, match="1 components can't make 2 sides"):
        assign(np.ones((1, 1), dtype=np.int64), [0.5, 0.5])
