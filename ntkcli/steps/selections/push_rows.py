"""Push a selection to the Hub as a data set: its rows as JSON Lines, best first, and a card."""

from __future__ import annotations

import shutil

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Format
from ntkcli.steps.selections.data_card import data_card
from ntkcli.steps.selections.export import export_rows
from ntkcli.steps.shared.commands import making
from ntkcli.steps.shared.hub_push import push

FILE = "train.jsonl"
"""By this name the library datasets knows the split."""


def push_rows(
    stored: store.Store, dataset: store.Artefact, selection: store.Artefact, repo: str, *, schema: Format, public: bool
) -> str:
    """The address of the data set on the Hub.

    Raises:
        DataError: a row does not fit the schema. NtkselError: the Hub did not take it.
    """
    scores = [stored.find(name) for name in selection.parents if name.startswith("scores/")]
    score = next(each for each in scores if each is not None)
    sources = mix_of(dataset, dataset.take("source", selection.read("row")))
    card = data_card(selection, score=score, dataset=dataset, sources=sources, file=FILE)
    work = stored.tmp_path()
    work.mkdir()
    try:
        export_rows(stored, dataset, selection, work / FILE, schema=schema)
        return push(
            {FILE: work / FILE, "README.md": card.encode()},  # not the manifest, which names files of this machine
            repo,
            kind="dataset",
            public=public,
            message=f"{selection.n} rows, digest {selection.digest()}",
            again=making(stored.path, selection.name).removesuffix("...`") + f"... --push-to-hub {repo}`",
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def mix_of(dataset: store.Artefact, source: NDArray[np.integer]) -> dict[str, int]:
    """Rows by source label, most first, from their codes; labels are the data set's own, "" when it has none."""
    labels = dataset.attrs["sources"]
    codes, counts = np.unique(source, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(labels[codes[i]]): int(counts[i]) for i in order}
