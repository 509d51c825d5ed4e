"""Why a row is not in a selection: the constraint that kept it out and the chosen row that took its place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.selection.duplicates import first_of_each
from ntkcli.selection.quotas import parse_quotas
from ntkcli.steps.scores.inputs import texts_of
from ntkcli.steps.selections.selectors import ComparedRows, SelectorFeatures, rows_with_features
from ntkcli.steps.shared.lengths import SPEC_KEY, Encoding, kept_lengths

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Displaced:
    """`why` in words, and the chosen row (None: a filter took the row out, whatever else was chosen)."""

    why: str
    by: int | None


def displaced(
    stored: store.Store, selection: store.Artefact, score: store.Artefact, row: int, features: SelectorFeatures | None
) -> Displaced:
    """Of one row that was not chosen: the first constraint that it breaks beside the chosen rows, else its rank."""
    said = selection.spec
    values = score.read("score")
    if np.isnan(values[row]):
        return Displaced("it has no score", None)
    if (by_length := _length(stored, selection, row)) is not None:
        return by_length
    if features is not None and row not in rows_with_features(features, n=len(values)):
        return Displaced("it has no features to compare", None)
    if (like := _like(stored, selection, score, row, features)) is not None:
        return Displaced(f"--dedup {said['dedup']}: a chosen row is too like it", like)
    if (full := _full(stored, selection, row)) is not None:
        return Displaced("--max-per-source: its source is full; this is the last chosen of it", full)
    return _outranked(selection, values, row)


def _outranked(selection: store.Artefact, values: NDArray[np.float32], row: int) -> Displaced:
    chosen, said = selection.read("row"), selection.spec
    if said["method"] == "top" and values[row] > values[chosen].min():
        known = ("token_budget", "exclude", "only", "against")
        filters = [f"--{key.replace('_', '-')}" for key in known if key in said]
        if "min_per_source" in said:
            filters.append("--min-per-source of others")
        return Displaced(f"its score would do, so {' or '.join(filters) or 'another constraint'} kept it out", None)
    return Displaced("others were worth more; this is the last that was chosen", int(chosen[-1]))


def _length(stored: store.Store, selection: store.Artefact, row: int) -> Displaced | None:
    least, most = selection.spec.get("min_tokens"), selection.spec.get("max_tokens")
    if SPEC_KEY not in selection.spec or (least is None and most is None):
        return None  # a selection made before its spec said how rows were counted among them
    encoding = Encoding(**selection.spec[SPEC_KEY])
    tokens = int(kept_lengths(stored, str(selection.attrs["data"]), encoding)[row])
    if least is not None and tokens < least:
        return Displaced(f"--min-tokens {least}: it has {tokens or 'no known number'}", None)
    if most is not None and not 0 < tokens <= most:
        return Displaced(f"--max-tokens {most}: it has {tokens or 'no known number'}", None)
    return None


def _like(
    stored: store.Store, selection: store.Artefact, score: store.Artefact, row: int, features: SelectorFeatures | None
) -> int | None:
    """The chosen row that is too like it, by words or by features."""
    dedup, chosen = selection.spec.get("dedup"), selection.read("row")
    if dedup in ("exact", "minhash"):
        texts = texts_of(stored, str(selection.attrs["data"]), np.sort(np.append(chosen, row)))()
        _, repeats = first_of_each(texts, [*chosen.tolist(), row], near=dedup == "minhash")
        return dict(repeats).get(row)
    if dedup is None or features is None:
        return None
    scored = np.flatnonzero(~np.isnan(score.read("score")))
    rows = np.sort(np.append(chosen, row))
    unit = ComparedRows(features, n=score.n, rows=rows, mean_over=scored).unit()
    similar = unit @ unit[np.searchsorted(rows, row)]
    similar[np.searchsorted(rows, row)] = -np.inf
    nearest = int(np.argmax(similar))
    return int(rows[nearest]) if similar[nearest] > float(dedup) else None


def _full(stored: store.Store, selection: store.Artefact, row: int) -> int | None:
    """The last chosen row of the row's source, if that has reached its maximum."""
    said = selection.spec
    if "max_per_source" not in said:
        return None
    dataset = stored.get(f"datasets/{selection.attrs['data']}")
    labels = [str(label) for label in dataset.attrs["sources"]]
    n = said["n"] if isinstance(said["n"], int) else None
    most = parse_quotas(said["max_per_source"], labels=labels, n=n, option="--max-per-source")
    sources, chosen = dataset.read("source"), selection.read("row")
    same = chosen[sources[chosen] == sources[row]]
    full = len(same) >= most.get(int(sources[row]), len(chosen) + 1)
    return int(same[-1]) if full and len(same) else None
