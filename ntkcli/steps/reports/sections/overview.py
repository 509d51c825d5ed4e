"""What was run, on what, and at which cost."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

import store
from ntkcli.steps.reports.blocks import Block, Column, Notice, Paragraph, Stat, Stats, Table, Value
from ntkcli.steps.reports.collect import Facts, Made, spec_value
from ntkcli.units import human_bytes, human_duration


def overview(facts: Facts) -> list[Block]:
    """The first numbers, the data sets, the models, and every artefact with what it was made from."""
    blocks: list[Block] = [Stats(_stats(facts)), *_data(facts), *_models(facts)]
    if not facts.made:
        blocks.append(Notice("missing", "The store is empty.", f"ntksel featurize {_path(facts)} --data FILE ..."))
        return blocks
    columns = (Column("artefact"), Column("rows", ",", True), Column("state"), Column("finished (UTC)"),
               Column("made from"))  # fmt: skip
    there = {made.name for made in facts.made} | {name for name, _ in facts.damaged}
    lines = tuple((made.name, made.rows, _state(made), _when(made.ended), _parents(made, there)) for made in facts.made)
    blocks.append(Table("artefacts", "Every artefact of the store and what it was made from", columns, lines, True))
    return blocks


def cost(facts: Facts) -> list[Block]:
    """Tokens, wall-clock time and disk by artefact."""
    if not facts.made:
        return [Notice("missing", "Nothing was computed yet.")]
    lines, tokens_of_all, seconds_of_all = [], 0, 0.0
    for made in facts.made:
        tokens = facts.attempt(made.name, _tokens, facts.stored, made.name)
        seconds = max(0.0, made.ended - made.began)
        tokens_of_all += tokens or 0
        seconds_of_all += seconds
        lines.append((made.name, tokens, round(seconds / 60, 1), round(made.size_bytes / (1 << 20), 2)))
    columns = (Column("artefact"), Column("tokens", ",", True), Column("minutes", ".1f", True),
               Column("disk (MiB)", ".2f", True))  # fmt: skip
    total = Stats((
        Stat("tokens read by a model", f"{tokens_of_all:,}"),
        Stat("time", human_duration(seconds_of_all), "between first and last write, pauses included"),
        Stat("disk", human_bytes(sum(made.size_bytes for made in facts.made))),
    ))  # fmt: skip
    said = (
        "Time runs from the first to the last write of an artefact: loading a model and pauses between two runs of a "
    )
    said += (
        "command are in it or not, as they fell. Evaluations count the tokens of answers only where the store has them."
    )
    return [total, Table("costs", "Cost by artefact", columns, tuple(lines), True), Paragraph(said)]


def _stats(facts: Facts) -> tuple[Stat, ...]:
    ended = max((made.ended for made in facts.made), default=0.0)
    pool = None if facts.pool is None else facts.dataset(facts.pool)
    chosen = facts.selection
    share = f"{chosen.n / pool.n:.2%} of the pool" if chosen is not None and pool is not None and pool.n else ""
    unfinished = sum(not made.complete for made in facts.made)
    return (
        Stat("pool", f"{pool.n:,}" if pool is not None else "—", "rows" if pool is not None else "none is scored yet"),
        Stat("chosen", f"{chosen.n:,}" if chosen is not None else "—", share or "no selection yet"),
        Stat("artefacts", f"{len(facts.made):,}", f"{unfinished} unfinished" if unfinished else "all finished"),
        Stat("last result", _when(ended)[:10] or "—", _when(ended)[11:] + (" UTC" if ended else "")),
    )


def _data(facts: Facts) -> list[Block]:
    lines = []
    for artefact in facts.of_kind("dataset"):
        line = facts.attempt(artefact.name, _data_line, artefact)
        if line is not None:
            lines.append(line)
    if not lines:
        return [
            Notice(
                "missing", "The store has no data set.", f"ntksel featurize {_path(facts)} --data FILE --name pool ..."
            )
        ]
    columns = (Column("data set"), Column("rows", ",", True), Column("unusable", ",", True),
               Column("sources", ",", True),
               Column("schema"), Column("file"))  # fmt: skip
    return [Table("data", "Data sets", columns, tuple(lines))]


def _data_line(artefact: store.Artefact) -> tuple[Value, ...]:
    attrs, unusable = artefact.attrs, artefact.read("status") >= store.RowStatus.UNREADABLE
    name, schema = artefact.name.partition("/")[2], str(artefact.spec["schema"])
    return name, artefact.n, int(unusable.sum()), len(attrs["sources"]), schema, str(attrs.get("source", ""))


def _models(facts: Facts) -> list[Block]:
    lines = []
    for kind in ("features", "run", "eval"):
        for artefact in facts.of_kind(kind):
            spec = artefact.spec
            model = spec.get("model")
            digest = spec_value(model, "weights") or (
                model if isinstance(model, str) else store.fingerprint({"": model})
            )
            what = {
                "features": f"{spec.get('kind')}, kept as {spec.get('store_dtype', 'float16')}",
                "run": f"adapter of rank {spec.get('rank')}",
                "eval": f"scorer {spec.get('scorer')}",
            }[kind]
            lines.append((artefact.name, what, str(spec.get("dtype", "")), str(artefact.attrs.get("model", "")),
                          str(digest)[:12]))  # fmt: skip
    columns = (Column("artefact"), Column("what"), Column("number format"), Column("model"), Column("weights (digest)"))
    return [Table("models", "Models", columns, tuple(lines))] if lines else []


def _state(made: Made) -> str:
    if made.stale:
        return "out of date"
    return "finished" if made.complete else f"{made.done:,} of {made.rows:,} rows"


def _parents(made: Made, there: set[str]) -> str:
    return ", ".join(name if name in there else f"{name} (removed)" for name in made.parents)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""


def _tokens(stored: store.Store, name: str) -> int | None:
    """Tokens that a model has read for it; None where the store doesn't know."""
    artefact = stored.get(name)
    if artefact.kind not in (store.Kind.FEATURES, store.Kind.RUN, store.Kind.EVAL) or "tokens" not in artefact.arrays:
        return None
    total = 0
    for i in _done_parts(artefact):
        total += int(artefact.read_part("tokens", i).sum())
    return total


def _done_parts(artefact: store.Artefact) -> list[int]:
    """The numbers of the parts that are done."""
    return [i for i, done in enumerate(artefact.done().tolist()) if done]


def _path(facts: Facts) -> str:
    return shlex.quote(str(facts.stored.path))
