"""Scores by the words of the rows: BM25 and DSIR, the baselines that need no model. Texts come in as strings.

    bm25   s_j = mean_i BM25(query a_i, document x_j)             (Lucene's variant, k1 = 1.5, b = 0.75)
    dsir   s_j = Σ_w c_w(x_j) · (log p_domain(w) - log p_pool(w)) + Gumbel noise   (Xie et al. 2023, arXiv 2302.03169)

where c_w counts hashed words and pairs of words in 10,000 buckets. The highest N of `dsir` are N rows drawn without
replacement in proportion to their importance weights.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np

from ntkcli.errors import DataError
from ntkcli.scoring.features import Rows, Wide

BUCKETS = 10_000
"""Of DSIR's hashed counts: the paper's number (section 3)."""
K1, B = 1.5, 0.75
"""Of BM25: how soon repeats of a word stop to count, and how much a long text is held against it."""
SMOOTHING = 1e-8
"""Added to each probability before the logarithm, as the authors' code does."""
_TOKEN = re.compile(r"\w+|[^\w\s]+")
_WORD = re.compile(r"\w+")

Texts = Callable[[], Iterable[tuple[int, str]]]
"""A pool's texts as (row, text), anew at each call."""


def bm25_scores(pool: Texts, groups: Sequence[Sequence[str]], *, n: int) -> Wide:
    """The mean BM25 score over each group's texts as queries (n, groups), NaN for rows the pool doesn't give.

    Words are runs of letters and digits in lower case, without a stop list. The mean over queries is one weighted sum
    over a document's words, so nothing is indexed: two passes, memory O(words of the queries), whatever the pool is.

    Raises:
        DataError: the pool has no words.
    """
    queries, weight = _query_words(groups)
    documents, words_in_all = 0, 0
    having = np.zeros(len(queries))
    for _, text in pool():
        words = _WORD.findall(text.lower())
        documents, words_in_all = documents + 1, words_in_all + len(words)
        having[[queries[word] for word in queries.keys() & words]] += 1
    if not words_in_all:
        raise DataError("The pool's rows hold no words.", "Use a method on features.")
    worth = weight * np.log(1 + (documents - having + 0.5) / (having + 0.5))[:, None]
    average = words_in_all / documents
    scores = np.full((n, len(groups)), np.nan)
    for row, text in pool():
        words = _WORD.findall(text.lower())
        times = {queries[word]: count for word, count in Counter(words).items() if word in queries}
        often = np.fromiter(times.values(), dtype=np.float64, count=len(times))
        share = often / (often + K1 * (1 - B + B * len(words) / average))
        scores[row] = share @ worth[list(times)]
    return scores


def _query_words(groups: Sequence[Sequence[str]]) -> tuple[dict[str, int], Wide]:
    """The words of all queries, numbered, and how often a query of each group has each in the mean (words, groups)."""
    queries: dict[str, int] = {}
    counts = [Counter(word for text in texts for word in _WORD.findall(text.lower())) for texts in groups]
    for count in counts:
        for word in count:
            queries.setdefault(word, len(queries))
    weight = np.zeros((len(queries), len(groups)))
    for g, (count, texts) in enumerate(zip(counts, groups, strict=True)):
        weight[[queries[word] for word in count], g] = list(count.values())
        weight[:, g] /= len(texts)
    return queries, weight


def dsir_scores(pool: Texts, groups: Sequence[Sequence[str]], row_ids: Sequence[str], *, seed: int) -> Wide:
    """Log importance weights plus Gumbel noise of (seed, row id) (n, groups). Two passes, O(buckets) memory."""
    pool_log = _log_probabilities(text for _, text in pool())
    weights = np.stack([_log_probabilities(texts) - pool_log for texts in groups], axis=1)
    scores = np.full((len(row_ids), len(groups)), np.nan)
    for row, text in pool():
        counts = hashed_counts(text)
        at = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
        times = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
        scores[row] = times @ weights[at] + gumbel(row_ids[row], seed=seed)
    return scores


def hashed_counts(text: str) -> Counter[int]:
    """How often each bucket is hit by the text's words and pairs of neighbouring words, in lower case."""
    words = _TOKEN.findall(text.lower())
    pairs = (f"{a} {b}" for a, b in pairwise(words))
    return Counter(zlib.crc32(gram.encode()) % BUCKETS for gram in (*words, *pairs))


def gumbel(row_id: str, *, seed: int) -> float:
    """A standard Gumbel number that depends on (seed, row id) alone."""
    from ntkcli.scoring.random import uniform

    return float(-np.log(-np.log(uniform(f"{seed}|{row_id}") * (1 - 2e-16) + 1e-16)))


def match_length_scores(
    tokens: Rows, target: Rows, row_ids: Sequence[str], only: Rows, *, seed: int, bins: int = 20
) -> Wide:
    """Random scores (n,) whose highest N have lengths distributed as `target` (m,), as far as the pool has such rows.

    Log importance weights over `bins` quantile bins of the target's tokens, plus Gumbel noise: sampling without
    replacement, unbiased while N is small beside the pool. `tokens` (n,) are the pool's; rows outside `only` are NaN.
    """
    edges = np.unique(np.quantile(target, np.linspace(0, 1, bins + 1)))
    inner = edges[1:-1]
    have = np.searchsorted(inner, tokens[only], side="right")
    want = np.bincount(np.searchsorted(inner, target, side="right"), minlength=len(inner) + 1) / len(target)
    share = np.bincount(have, minlength=len(inner) + 1) / len(only)
    outside = (tokens[only] < edges[0]) | (tokens[only] > edges[-1])
    weight = np.log(want[have] + SMOOTHING) - np.log(share[have])
    weight[outside] = np.log(SMOOTHING)  # chosen only when nothing else is left
    scores = np.full(len(row_ids), np.nan)
    noise = (gumbel(row_ids[row], seed=seed) for row in only.tolist())
    scores[only] = weight + np.fromiter(noise, dtype=np.float64, count=len(only))
    return scores


def _log_probabilities(texts: Iterable[str]) -> Wide:
    total = np.zeros(BUCKETS)
    for text in texts:
        for bucket, count in hashed_counts(text).items():
            total[bucket] += count
    probability: Wide = total / max(1.0, total.sum())
    return np.log(probability + SMOOTHING)
