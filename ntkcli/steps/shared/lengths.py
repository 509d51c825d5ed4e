"""Lengths of rows in tokens: by which tokenizer they count, settled by a rule and kept in specs, and the numbers.

A length depends on the row, the tokenizer with its template, the encoder's version, `--thinking` and the maximum
length: an `Encoding`. All features and counts of a data set by one encoding hold the same lengths, so it does not
matter which of them are read, and the encoding in a spec determines the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data.encoding import VERSION as ENCODER_VERSION
from ntkcli.data.raw_text import CHAT, RAW
from ntkcli.errors import IncompleteError, NtkselError, UsageError
from ntkcli.identity import ModelIdentity, resolve_model
from ntkcli.progress import Progress, Silent
from ntkcli.steps.shared.datasets import data_file
from ntkcli.steps.shared.row_sets import rows_in_order
from ntkcli.steps.shared.token_counts import count, count_tokens
from store.layout import is_name

Rows = NDArray[np.int64]
SPEC_KEY = "tokens"
"""The field of a spec that holds the encoding."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """By what rows are counted: the tokenizer's digest and the encoder's settings; `max_length` None: whole rows.

    `model` is a model that has the tokenizer, for rows that nothing in the store has counted; None if none is known.
    """

    tokenizer: str | None
    encoder: Mapping[str, Any]
    model: ModelIdentity | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """What goes into the spec of what depends on these lengths."""
        return {"tokenizer": self.tokenizer, "encoder": dict(self.encoder)}

    @property
    def max_length(self) -> int | None:
        """The length that longer rows are cut to, None for whole rows."""
        return self.encoder.get("max_length")

    @property
    def text_as(self) -> str:
        """What rows of schema text are (`ntkcli.data.raw_text`)."""
        return str(self.encoder.get("text_as", CHAT))

    def __str__(self) -> str:
        cut = "whole rows" if self.max_length is None else f"rows cut at {self.max_length} tokens"
        thinking = {None: "", True: ", thinking on", False: ", thinking off"}[self.encoder.get("thinking")]
        raw = ", texts raw" if self.text_as == RAW else ""
        return f"{cut}{thinking}{raw}, tokenizer {(self.tokenizer or 'unknown')[:8]}"


def encoding_of(artefact: store.Artefact) -> Encoding:
    """The encoding of features, or of counts (whole rows)."""
    model = artefact.spec.get("tokenizer") or (artefact.spec.get("model") or {}).get("tokenizer")
    return Encoding(model, dict(artefact.spec.get("encoder") or {}))


def settle_encoding(
    stored: store.Store,
    data: str,
    *,
    option: str,
    tokens_of: str | None,
    made_from: Sequence[store.Artefact] = (),
    others: Sequence[str] = (),
    known: store.Artefact | None = None,
) -> Encoding:
    """By what the rows of `data` count, for `option`. The first of these that holds:

    `tokens_of`: features of `data`, or a model (whole rows); the features that `made_from` (scores, selections,
    features) were made from; if all finished features of `data` and `others` agree, or without any all counts: these.
    Where the last two leave it open, what an artefact of this name that is there already (`known`) has in its spec.

    Raises:
        UsageError: they don't agree, or `tokens_of` is neither; the message names the option that decides.
        IncompleteError: nothing in the store says anything.
    """
    if tokens_of is not None:
        return _named(stored, data, tokens_of)
    try:
        found = _ancestral(stored, made_from) or _in_store(stored, [data, *others])
        return _the_one(found, data, option)
    except NtkselError:
        if known is not None and SPEC_KEY in known.spec:
            return Encoding(**known.spec[SPEC_KEY])
        raise


def lengths(
    stored: store.Store, data: str, encoding: Encoding, rows: Rows | None = None, *, progress: Progress | None = None
) -> Rows:
    """The length of each row of a data set (n,) int64 by `encoding`, 0 = it can't be encoded; known of `rows` at least.

    What neither features nor counts of the store hold is counted now.

    Raises:
        IncompleteError: rows would have to be counted, and no model with this tokenizer is known.
    """
    dataset = stored.get(f"datasets/{store.check_name(data)}")
    wanted = np.arange(dataset.n) if rows is None else rows
    length, is_known = _kept(stored, dataset, encoding)
    if is_known[wanted].all():
        return length
    model = encoding.model or _model_with(stored, encoding.tokenizer)
    if model is None or encoding.encoder.get("version") != ENCODER_VERSION:
        missing = int((~is_known[wanted]).sum())
        raise IncompleteError(
            f"{missing} rows of {data!r} have no token counts by {encoding}, and no model with it is known.",
            f"Run `ntksel featurize ... --name {data}` first, or give --tokens-of MODEL.",
        )
    wanted = np.unique(wanted)
    thinking = encoding.encoder.get("thinking")
    how: dict[str, Any] = {"thinking": thinking, "text_as": encoding.text_as}
    count_tokens(stored, dataset, data_file(stored, dataset), model, **how, progress=progress or Silent())
    length, is_known = _kept(stored, dataset, encoding)
    if len(missing_rows := wanted[~is_known[wanted]]):  # longer than the maximum: how much is left is the encoder's
        stream = rows_in_order(data_file(stored, dataset), missing_rows, dataset.read("status"))
        counts = count(stream, model, **how, max_length=encoding.max_length)
        length[missing_rows] = counts.length
    return length


def kept_lengths(stored: store.Store, data: str, encoding: Encoding) -> Rows:
    """The same as far as the store holds them, 0 elsewhere; nothing is counted and nothing written."""
    return _kept(stored, stored.get(f"datasets/{store.check_name(data)}"), encoding)[0]


def _named(stored: store.Store, data: str, reference: str) -> Encoding:
    """The encoding that `--tokens-of` names: features of the data set, else a model."""
    features = stored.find(f"features/{data}/{reference}") if is_name(reference) else None
    if features is not None:
        return encoding_of(features)
    if is_name(reference) and not Path(reference).exists():
        have = [name.rpartition("/")[2] for name in stored.names([store.Kind.FEATURES]) if name.split("/")[1] == data]
        raise UsageError(
            f"--tokens-of {reference}: {data!r} has no features of that name, and there is no such model.",
            f"Give a model, or one of: {', '.join(have)}." if have else "Give a model folder, GGUF file or Hub id.",
        )
    try:
        model = resolve_model(reference)
    except UsageError as error:
        raise UsageError(error.what.replace("--model", "--tokens-of", 1), error.fix) from error
    return Encoding(model.spec["tokenizer"], {"version": ENCODER_VERSION}, model)


def _ancestral(stored: store.Store, made_from: Sequence[store.Artefact]) -> list[tuple[str, Encoding]]:
    """What the artefacts say in their specs, or the features of their pool that they were made from; with names.

    Where neither is there, the same of the selections that their rows come from.
    """
    found: list[tuple[str, Encoding]] = []
    narrower: list[store.Artefact] = []
    for artefact in made_from:
        if SPEC_KEY in artefact.spec:
            found.append((artefact.name, Encoding(**artefact.spec[SPEC_KEY])))
        elif artefact.name.startswith("features/"):
            found.append((artefact.name, encoding_of(artefact)))
        else:
            found += [each for parent in _parents(stored, artefact) for each in _ancestral(stored, [parent])]
            narrower += [
                each
                for name in artefact.parents
                if name.startswith("selections/")
                if (each := stored.find(name)) is not None
            ]
    return found or (_ancestral(stored, narrower) if narrower else [])


def _parents(stored: store.Store, artefact: store.Artefact) -> Iterator[store.Artefact]:
    """The scores that a score or a selection was made from, and the features of its own pool."""
    for name in artefact.parents:
        if name.startswith((f"features/{artefact.attrs.get('data')}/", "scores/")):
            parent = stored.find(name)
            if parent is None:
                raise IncompleteError(
                    f"{artefact.name} was made from {name}, which is gone, so nothing says how its rows are counted.",
                    "Give --tokens-of FEATURE or --tokens-of MODEL.",
                )
            yield parent


def _in_store(stored: store.Store, names: Sequence[str]) -> list[tuple[str, Encoding]]:
    """The encodings of all finished features of these data sets, else of their counts."""
    for kind in (store.Kind.FEATURES, store.Kind.TOKENS):
        found = [(each.name, encoding_of(each)) for data in names for each in _current(stored, data, kind)]
        if found:
            return found
    return []


def _the_one(found: Sequence[tuple[str, Encoding]], data: str, option: str) -> Encoding:
    if not found:
        raise IncompleteError(
            f"Rows of {data!r} have no token counts: there are no finished features of it.",
            f"Run `ntksel featurize ... --name {data}` first, or give --tokens-of MODEL.",
        )
    apart = {store.fingerprint(encoding.spec): (name, encoding) for name, encoding in reversed(found)}
    if len(apart) > 1:
        said = "; ".join(f"{name}: {encoding}" for name, encoding in sorted(apart.values(), key=lambda pair: pair[0]))
        raise UsageError(
            f"{option} counts tokens, and rows of {data!r} are counted in {len(apart)} ways ({said}).",
            "Give --tokens-of FEATURE or --tokens-of MODEL.",
        )
    return found[0][1]


def _current(stored: store.Store, data: str, kind: store.Kind) -> Iterator[store.Artefact]:
    """The finished features or counts of the data set as it is now."""
    digest = stored.get(f"datasets/{store.check_name(data)}").spec["digest"]
    for name in stored.names([kind]):
        if name.split("/")[1] == data:
            artefact = stored.get(name)
            if artefact.complete and artefact.spec["data"] == digest:
                yield artefact


def _kept(stored: store.Store, dataset: store.Artefact, encoding: Encoding) -> tuple[Rows, NDArray[np.bool_]]:
    """The lengths that the store has, (n,) int64, and which rows they are known of, (n,) bool."""
    data = dataset.name.partition("/")[2]
    length = np.zeros(dataset.n, dtype=np.int64)
    is_known = np.zeros(dataset.n, dtype=np.bool_)
    whole = {key: value for key, value in encoding.encoder.items() if key != "max_length"}
    alike = [each for each in _current(stored, data, store.Kind.FEATURES) if encoding_of(each).spec == encoding.spec]
    for each in sorted(alike, key=lambda artefact: (artefact.n, artefact.name)):
        rows = each.read("row") if "row" in each.arrays else np.arange(dataset.n)
        found = each.read("tokens").astype(np.int64)
        counted = (found > 0) | (each.read("status") != store.RowStatus.NON_FINITE)
        length[rows[counted]] = found[counted]
        is_known[rows[counted]] = True
    for each in _current(stored, data, store.Kind.TOKENS):
        if encoding_of(each).spec != {"tokenizer": encoding.tokenizer, "encoder": whole}:
            continue
        found = each.read("length").astype(np.int64)
        counted = ~is_known & (found <= (encoding.max_length or found.max(initial=0)))
        length[counted] = found[counted]
        is_known |= counted
    return length, is_known


def _model_with(stored: store.Store, tokenizer: str | None) -> ModelIdentity | None:
    """A model that features or counts of the store were made with, and that still has this tokenizer."""
    for kind in (store.Kind.FEATURES, store.Kind.TOKENS):
        for each in stored.artefacts(kind, on_damage=lambda _: None):
            if tokenizer is None or encoding_of(each).tokenizer != tokenizer or "model" not in each.attrs:
                continue
            try:
                code = "remote_code" in (each.spec.get("model") or {})
                model = resolve_model(each.attrs["model"], trust_remote_code=code)
            except NtkselError:
                continue
            if model.spec["tokenizer"] == tokenizer:
                return model
    return None
