"""What scores are made of: features of pool and domain groups, and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import store
from ntkcli.data import Row
from ntkcli.errors import DataError, SpecError, UsageError
from ntkcli.scoring.features import FeatureReader, Rows
from ntkcli.steps.shared.datasets import data_file
from ntkcli.steps.shared.pool_rows import text_of
from ntkcli.steps.shared.row_sets import rows_in_order
from ntkcli.steps.shared.stores import require_current

_MAY_DIFFER = frozenset({"data", "rows", "store_dtype", "losses"})
"""Fields of a features spec in which pool and domain may differ and still compare."""


@dataclass(frozen=True, slots=True)
class Group:
    """Domain rows that count as one: rows (m,) int64 of the data set `domain`, and a label for messages."""

    label: str
    domain: str
    rows: Rows


def domain_groups(stored: store.Store, domains: Sequence[str], *, group_by: str | None) -> list[Group]:
    """One group for each domain or, `group_by` "source", for each domain's source label; bad rows in none.

    Raises:
        UsageError: a domain stands twice, grouping is by something else, or no row has a source to group by.
        DataError: a domain has no row that can be used.
    """
    if not domains:
        raise UsageError("--domain is missing: this method compares with a domain.", "Give --domain DATA.")
    if len(set(domains)) < len(domains):
        raise UsageError("A --domain is given twice.", "Give each data set once.")
    if group_by not in (None, "source"):
        raise UsageError(f"--group-by {group_by} is not known.", "Give --group-by source.")
    groups = []
    for domain in domains:
        dataset = stored.get(f"datasets/{store.check_name(domain, '--domain')}")
        good = np.flatnonzero(dataset.read("status") < store.RowStatus.UNREADABLE)
        if not len(good):
            raise DataError(f"The domain {domain!r} has no row that can be used.", "Give a domain that has some.")
        if group_by is None:
            groups.append(Group(domain, domain, good))
            continue
        codes = dataset.read("source")[good]
        labels = dataset.attrs["sources"]
        groups += [Group(f"{domain}: {labels[code]}", domain, good[codes == code]) for code in np.unique(codes)]
    if group_by is not None and all(group.label == f"{group.domain}: " for group in groups):
        raise UsageError(
            f"--group-by source: no row of {' or '.join(domains)} has a source.",
            "Leave --group-by out, or give a domain with a column `source`.",
        )
    return groups


def features_of(
    stored: store.Store, *, pool: str, domains: Sequence[str], feature: str, pool_by_adam: bool = False
) -> tuple[store.Artefact, dict[str, store.Artefact]]:
    """The features of the pool and of each domain, checked to be finished, current and made alike.

    `pool_by_adam`: the pool's may be Adam's steps for the gradients that the domain's are.

    Raises:
        store.MissingArtefactError: the pool or a domain has none of that name.
        SpecError: they don't compare; each setting that differs is named.
    """
    if not domains:
        raise UsageError("--domain is missing: this method compares with a domain.", "Give --domain DATA.")
    pool_features = _current(stored, pool, "--pool", feature)
    domain_features = {domain: _current(stored, domain, "--domain", feature) for domain in domains}
    may_differ = _MAY_DIFFER | {"adam"} if pool_by_adam else _MAY_DIFFER
    for each in domain_features.values():
        alike = [{key: value for key, value in s.spec.items() if key not in may_differ} for s in (pool_features, each)]
        if changed := store.differences(alike[1], alike[0]):
            raise SpecError(
                f"{pool_features.name} and {each.name} were not made alike, so they don't compare: "
                + "; ".join(f"{d.field} is {d.new} for the pool and {d.old} for the domain" for d in changed)
                + ".",
                "Featurize one of them again with the other's settings, under another --feature.",
            )
    return pool_features, domain_features


def covering_reader(
    side: store.Artefact, *, dataset: store.Artefact, only: Rows | None, on_block: Callable[[int], None]
) -> FeatureReader:
    """A reader of the pool's features of the rows `only`, or all. SpecError if it has not all of these."""
    reader = FeatureReader(side, n=dataset.n, only=only, on_block=on_block)
    if only is not None and len(reader.covered) < len(only):
        raise SpecError(
            f"{side.name} has {len(reader.covered)} of the {len(only)} rows of --rows.",
            f"Run `ntksel featurize ... --name {dataset.name.partition('/')[2]} --rows SELECTION` under another "
            "--feature.",
        )
    return reader


def _current(stored: store.Store, data: str, option: str, feature: str) -> store.Artefact:
    side = stored.get(f"features/{store.check_name(data, option)}/{store.check_name(feature, '--feature')}")
    require_current(stored, side)
    return side


def group_readers(
    stored: store.Store, domain_features: dict[str, store.Artefact], groups: Sequence[Group]
) -> list[FeatureReader]:
    """A reader of each group's features. DataError if a group has no row with features."""
    readers = []
    for group in groups:
        reader = FeatureReader(
            domain_features[group.domain], n=stored.get(f"datasets/{group.domain}").n, only=group.rows
        )
        if not any(len(block.rows) for block in reader.blocks()):
            raise DataError(
                f"{domain_features[group.domain].name} has no row with features in the group {group.label!r}.",
                "Featurize a domain that has some.",
            )
        readers.append(reader)
    return readers


def texts_of(stored: store.Store, data: str, rows: Rows | None) -> Callable[[], Iterator[tuple[int, str]]]:
    """The usable rows of a data set as (row, text), from the start at each call; the text is all turns, a line each."""
    dataset = stored.get(f"datasets/{data}")
    file, status = data_file(stored, dataset), dataset.read("status")

    def read() -> Iterator[tuple[int, str]]:
        for row in rows_in_order(file, rows, status):
            if isinstance(row, Row):
                yield row.index, text_of(row)

    return read
