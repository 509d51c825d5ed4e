"""The map: pool, domain and selected rows on a plane, from the stored features."""

from __future__ import annotations

import shlex
from functools import partial

import numpy as np

import store
from ntkcli.steps.reports import plots
from ntkcli.steps.reports.blocks import Block, Column, Notice, Plot, Table, Value
from ntkcli.steps.reports.collect import READING, Facts
from ntkcli.steps.reports.projection import Plane, project
from ntkcli.steps.reports.sample import Sample, sample
from ntkcli.steps.reports.texts import hover

POOL_ROWS, CHOSEN_ROWS, DOMAIN_ROWS = 700, 250, 250
"""Points of the map: more hide each other, and each brings its text along."""
LISTED_ROWS = 100
"""Of each group, in the table below the map, which the keyboard and a screen reader reach."""


def features_of_score(facts: Facts) -> tuple[store.Artefact, list[store.Artefact]] | None:
    """Features of the pool, and those of its domains, that the score was made from and that can be read."""
    pool, score = facts.pool, facts.score
    finished = {made.name for made in facts.made if made.kind == "features" and made.complete}
    named = [name for name in (score.parents if score is not None else ()) if name in finished]
    mine = [name for name in named if name.split("/")[1] == pool]
    if not mine:  # a score by words, or features that were removed: any pair that compares
        named = sorted(finished)
        mine = [name for name in named if name.split("/")[1] == pool]
    for name in mine:
        side = facts.attempt(name, facts.stored.get, name)
        feature = name.split("/")[2]
        others = [each for each in named if each.split("/")[2] == feature and each.split("/")[1] != pool]
        domains = [facts.attempt(each, facts.stored.get, each) for each in others]
        found = [each for each in domains if each is not None]
        if side is not None:
            return side, found
    return None


def feature_map(facts: Facts) -> list[Block]:
    """One map, or what is missing for it."""
    if facts.pool is None:
        return [no_features(facts)]
    found = features_of_score(facts)
    if found is None:
        return [no_features(facts)]
    pool, domains = found
    try:
        chosen = facts.selection.read("row") if facts.selection is not None else np.zeros(0, dtype=np.int64)
        drawn = sample(pool, most=POOL_ROWS)
        selected = sample(pool, most=CHOSEN_ROWS, only=chosen)
    except READING as error:
        facts.note_damage(pool.name, error)
        return [Notice("damaged", f"{pool.name} can't be read.", facts.repair)]
    near: list[tuple[store.Artefact, Sample]] = []
    for domain in domains:
        read = facts.attempt(domain.name, partial(sample, domain, most=DOMAIN_ROWS // len(domains)))
        if read is not None and read.unit.shape[1] == drawn.unit.shape[1]:
            near.append((domain, read))
    rest = ~np.isin(drawn.rows, chosen)
    drawn = Sample(drawn.rows[rest], drawn.unit[rest], drawn.of)
    vectors = np.concatenate([drawn.unit, selected.unit, *(read.unit for _, read in near)])
    if len(vectors) < 3:
        return [Notice("missing", f"{pool.name} has too few rows with features for a map.")]
    plane = project(vectors)
    return [_plot(facts, plane, drawn, selected, near), *_notices(facts, drawn, selected, chosen, near)]


def no_features(facts: Facts) -> Notice:
    """There is nothing to draw from."""
    name = facts.pool or "POOL"
    line = f"ntksel featurize {shlex.quote(str(facts.stored.path))} --data FILE --name {name} --kind ntk --model MODEL"
    return Notice("missing", "No finished features of the pool are in the store.", line)


def _plot(
    facts: Facts, plane: Plane, drawn: Sample, selected: Sample, near: list[tuple[store.Artefact, Sample]]
) -> Plot:
    pool = str(facts.pool)
    facts.load_texts(pool, [*drawn.rows.tolist(), *selected.rows.tolist()])
    groups = {}
    lines: list[tuple[Value, ...]] = []
    start = 0
    for name, read in (("pool", drawn), ("selected", selected)):
        stop = start + len(read.rows)
        if stop > start:
            groups[name] = (plane.xy[start:stop], _texts(facts, pool, read))
            lines += _lines(facts, name, pool, read, plane.xy[start:stop])
        start = stop
    domain_texts: list[str] = []
    for artefact, read in near:
        data = artefact.name.split("/")[1]
        facts.load_texts(data, read.rows.tolist())
        lines += _lines(facts, "domain", data, read, plane.xy[start + len(domain_texts) :])
        domain_texts += _texts(facts, data, read)
    if domain_texts:
        groups["domain"] = (plane.xy[start:], domain_texts)
    counts = ", ".join(f"{len(xy):,} {name}" for name, (xy, _) in groups.items())
    said = (
        f"{counts} rows by {plane.method} of the stored features; rows that lie close together have similar features."
    )
    axes = ("first axis", "second axis")
    if plane.explained:
        one, two = plane.explained
        said += f" The two axes hold {one + two:.0%} of the variance, so distances on the map are rough."
        axes = (f"component 1 ({one:.0%})", f"component 2 ({two:.0%})")
    columns = (Column("row"), Column("group"), Column("source"), Column(axes[0], ".3f", True),
               Column(axes[1], ".3f", True), Column("text", rows_text=True))  # fmt: skip
    caption = f"Points of the map, the first {LISTED_ROWS} of each group at most"
    table = Table("map-table", caption, columns, tuple(lines), True, ("group", "source"))
    return Plot("map-plot", "Pool, selected and domain rows", said, plots.scatter_map(groups, axes=axes), table, 560)


def _lines(facts: Facts, group: str, data: str, read: Sample, xy: np.ndarray) -> list[tuple[Value, ...]]:
    """The first points of a group as lines of the table; `xy` (n, 2) begins with theirs."""
    found: list[tuple[Value, ...]] = []
    for row, (x, y) in zip(read.rows[:LISTED_ROWS].tolist(), xy, strict=False):
        row_id, source, text = facts.row(data, row)
        found.append((row_id, group, source, float(x), float(y), text))
    return found


def _texts(facts: Facts, data: str, read: Sample) -> list[str]:
    found = []
    for row in read.rows.tolist():
        row_id, source, text = facts.row(data, row)
        found.append(hover(f"{row_id} · {source}" if source else row_id, text))
    return found


def _notices(
    facts: Facts, drawn: Sample, selected: Sample, chosen: np.ndarray, near: list[tuple[store.Artefact, Sample]]
) -> list[Block]:
    blocks: list[Block] = []
    if drawn.of > POOL_ROWS or len(selected.rows) < len(chosen):
        text = f"A sample: {len(drawn.rows):,} of {drawn.of:,} pool rows"
        text += (
            f" and {len(selected.rows):,} of {len(chosen):,} selected rows are drawn." if len(chosen) else " are drawn."
        )
        blocks.append(Notice("sampled", text))
    if not near:
        line = f"ntksel featurize {shlex.quote(str(facts.stored.path))} --data FILE --name DOMAIN ..."
        blocks.append(Notice("missing", "No features of a domain can be compared with the pool's.", line))
    blocks += [
        Notice("missing", f"The texts of {data!r} can't be read: {why}") for data, why in facts.lost_texts.items()
    ]
    return blocks
