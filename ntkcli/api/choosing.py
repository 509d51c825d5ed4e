"""Features, scores, selections, explanations and queries, with the options of the commands of the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ntkcli.api.names import ProbeName, ScoreName, SelectorName
from ntkcli.api.on_cluster import share
from ntkcli.api.opening import StorePath, path_of
from ntkcli.api.results import Explained, Features, Queried, Scored, Selected, TokensExplained
from ntkcli.choices import (
    Across,
    Dtype,
    Format,
    GroupBy,
    Kind,
    Leaks,
    OnError,
    Pooling,
    Positions,
    Projection,
    StoreDtype,
    TextAs,
    Thinking,
)
from ntkcli.errors import UsageError
from ntkcli.options import is_on
from ntkcli.paths import AND
from ntkcli.progress import Progress
from ntkcli.steps.scores.options import ScoreOptions


def featurize(
    store: StorePath, *, data: str | Path | Sequence[str | Path], name: str, kind: Kind, model: str,
    adapter: str | None = None, feature: str | None = None, rows: str | None = None, max_length: int = 1024,
    positions: Positions | None = None,
    pooling: Pooling = Pooling.MEAN, probe: ProbeName = "centred", probes: int = 1, layers: str = "all",
    projection: Projection = Projection.SJLT, dim: int = 8192, seed: int = 0, rank: int = 16,
    target_modules: str = "all-linear", adapter_seed: int = 0, adam: bool = False, losses: bool = False,
    store_dtype: StoreDtype = StoreDtype.FLOAT16, dtype: Dtype = Dtype.AUTO, device: str = "auto",
    batch_tokens: int | None = None, part_rows: int | None = None, shard: tuple[int, int] | None = None,
    on_error: OnError = OnError.FAIL, columns: Mapping[str, str] | None = None, split: str | None = None,
    thinking: Thinking | None = None, text_as: TextAs = TextAs.CHAT, trust_remote_code: bool = False,
    ray: str | None = None, progress: Progress | None = None,
) -> Features:  # fmt: skip
    """Compute features of every row, or find them finished: sketched per-example gradients, or embeddings.

    Like `ntksel featurize`. Several `data` are read as one data set, in their order. Only the parts I, I + N, ... with
    `shard` (I, N). `losses` keeps the loss of each row too. `ray`: share the work over a Ray cluster, its address or
    `local`.

    Raises:
        UsageError, DataError: an option or a row can't be used.
        SpecDiffersError: the features exist and were made with other settings.
    """
    given = {**locals(), "data": [data] if isinstance(data, str | Path) else data}
    share("featurize", given)
    given |= {"thinking": is_on(thinking), "shard": shard or (0, 1)}
    del given["ray"]
    given["data"] = data if isinstance(data, str | Path) else AND.join(map(str, data))
    from ntkcli.steps.features import featurize as step

    found = step.featurize(path_of(given.pop("store")), **given)
    return Features.of(found, store=path_of(store))


def score(
    store: StorePath, *, pool: str, name: str, method: ScoreName, domain: str | Sequence[str] | None = None,
    group_by: GroupBy | None = None, across: Across = Across.MAX, feature: str | Sequence[str] | None = None,
    rows: str | None = None, centre: bool = False, k: int | None = None, subspace: float | None = None,
    whiten: float | None = None, residual: bool = False, seed: int = 0, match_length: str | None = None,
    tokens_of: str | None = None, dtype: Dtype = Dtype.AUTO, device: str = "auto", batch_tokens: int | None = None,
    on_error: OnError = OnError.FAIL, ray: str | None = None, data: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Scored:  # fmt: skip
    """Score every row of the pool against the domain, streaming over the pool. Like `ntksel score`.

    `ray`, for the method exact: share the work over a Ray cluster, its address or `local`.

    Raises:
        UsageError: an option does not apply to the method, or can't be used.
        SpecError: pool and domain were not featurized alike.
    """
    given = locals()
    methods = {given.pop("name"): given.pop("method")}
    return scores(**given, methods=methods)[0]


def scores(
    store: StorePath, *, pool: str, methods: Mapping[str, ScoreName], domain: str | Sequence[str] | None = None,
    group_by: GroupBy | None = None, across: Across = Across.MAX, feature: str | Sequence[str] | None = None,
    rows: str | None = None, centre: bool = False, k: int | None = None, subspace: float | None = None,
    whiten: float | None = None, residual: bool = False, seed: int = 0, match_length: str | None = None,
    tokens_of: str | None = None, dtype: Dtype = Dtype.AUTO, device: str = "auto", batch_tokens: int | None = None,
    on_error: OnError = OnError.FAIL, ray: str | None = None, data: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[Scored]:  # fmt: skip
    """Write several scores of one pool; `methods` maps each name to its method. Like `ntksel score` with METHOD=NAME.

    Methods that compare features read them once, together. Each option applies to the methods that have it. `ray`, for
    one score by the method exact: share the work over a Ray cluster.

    Raises:
        UsageError: an option does not apply to any of the methods, or can't be used.
        SpecError: pool and domain were not featurized alike.
    """
    share("score", {**locals(), "method": [f"{method}={name}" for name, method in methods.items()]})
    from ntkcli.steps.scores.score import scores as step

    options = ScoreOptions(
        domain=_listed(domain), group_by=group_by, across=across, feature=_listed(feature), rows=rows, centre=centre,
        k=k, subspace=subspace, whiten=whiten, residual=residual, seed=seed, match_length=match_length,
        tokens_of=tokens_of, dtype=dtype, device=device, batch_tokens=batch_tokens,
    )  # fmt: skip
    found = step(
        path_of(store), pool=pool, methods=methods, options=options, on_error=on_error, data=data or (),
        progress=progress,
    )  # fmt: skip
    return [Scored.of(each, store=path_of(store)) for each in found]


def _listed(names: str | Sequence[str] | None) -> Sequence[str]:
    return [names] if isinstance(names, str) else names or ()


def combine(store: StorePath, *, combine: Sequence[str], name: str, progress: Progress | None = None) -> Scored:
    """Join scores of one pool by the mean of their ranks. Like `ntksel score --combine`."""
    from ntkcli.steps.scores.combine import combine as step

    return Scored.of(step(path_of(store), scores=combine, name=name, progress=progress), store=path_of(store))


def select(
    store: StorePath, *, score: str, name: str, n: int | Literal["auto"] | None = None, method: SelectorName = "top",
    exponent: float = 0.5, max_per_source: Sequence[str] | None = None, min_per_source: Sequence[str] | None = None,
    token_budget: int | None = None, match_tokens: str | None = None, min_tokens: int | None = None,
    max_tokens: int | None = None, tokens_of: str | None = None, dedup: str | None = None,
    candidates: int | None = None, exclude: Sequence[str | Path] | None = None,
    must_include: Sequence[str | Path] | None = None,
    only: Sequence[str] | None = None, against: Sequence[str | Path] | None = None, leaks: Leaks = Leaks.REMOVE,
    feature: str | None = None, domain: Sequence[str] | None = None, centre: bool = False,
    export: str | Path | None = None, format: Format = Format.OWN,  # noqa: A002  (the option's name)
    export_scores: str | Path | None = None, force: bool = False, data: Sequence[str] | None = None,
    explain: bool = False, push_to_hub: str | None = None, public: bool = False, progress: Progress | None = None,
) -> Selected:  # fmt: skip
    """Select the rows that help most, and export them. Like `ntksel select`.

    `exclude`, `must_include` and `only` take selections of the store, files of ids and data files. `push_to_hub` puts
    the rows into a repository of the Hub, which is private unless `public`.

    Raises:
        UsageError: constraints contradict each other or leave fewer than `n` rows.
    """
    from ntkcli.steps.selections import select as step

    if export is None and push_to_hub is None and format is not Format.OWN:
        raise UsageError(f"--format {format} is given without --export.", "Give export, the file to write.")
    limits = step.Constraints(
        max_per_source=tuple(max_per_source or ()),
        min_per_source=tuple(min_per_source or ()),
        token_budget=token_budget,
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        dedup=dedup,
        exclude=tuple(map(Path, exclude or ())),
        must_include=tuple(map(Path, must_include or ())),
        against=tuple(map(Path, against or ())),
        leaks=leaks,
        tokens_of=tokens_of,
        only=tuple(only or ()),
        match_tokens=match_tokens,
        candidates=candidates,
    )
    found = step.select(
        path_of(store),
        score=score,
        n=n,
        name=name,
        method=method,
        exponent=exponent,
        constraints=limits,
        feature=feature,
        domain=domain or (),
        centre=centre,
        export=export,
        schema=format,
        scores_export=export_scores,
        force=force,
        data=data or (),
        explain=explain,
        push_to_hub=push_to_hub,
        public=public,
        progress=progress,
    )
    return Selected.of(found, store=path_of(store))


def explain(
    store: StorePath, *, selection: str, row: str, bottom: bool = False, data: Sequence[str] | None = None
) -> Explained:
    """Show why a row was chosen, or why not: its nearest domain rows, ranks and gain. Like `ntksel explain`.

    `bottom` adds the farthest domain rows and the lowest rows of the pool.

    Raises:
        UsageError: the pool has no such row.
    """
    from ntkcli.steps.selections import explain as step

    return Explained.of(step.explain(path_of(store), selection=selection, row=row, bottom=bottom, data=data or ()))


def explain_tokens(
    store: StorePath, *, selection: str, row: str, device: str = "auto", data: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> TokensExplained:  # fmt: skip
    """Show which tokens of a row carry its score; loads the model. Like `ntksel explain --tokens`.

    Raises:
        UsageError: the pool has no such row, it has no score, or the score's method can't be split.
        SpecError: the model, the adapter or the tokenizer has changed since the features were made.
    """
    given = {**locals(), "data": data or ()}
    from ntkcli.steps.selections import explain_tokens as step

    return TokensExplained.of(step.explain_tokens(path_of(given.pop("store")), **given))


def query(
    store: StorePath, *, pool: str, text: str | None = None, prompt: str | None = None, completion: str | None = None,
    row: str | Path | None = None, feature: str = "ntk", n: int = 10, bottom: bool = False, centre: bool = True,
    device: str = "auto", data: Sequence[str] | None = None, progress: Progress | None = None,
) -> Queried:  # fmt: skip
    """Find the pool rows most like a row you give, by the pool's features; loads their model. Like `ntksel query`.

    The row is `text`, or `prompt` and `completion`, or the only row of the file `row`.

    Raises:
        UsageError: the row is missing or given in several ways.
        DataError: the row can't be used.
    """
    given = {**locals(), "data": data or ()}
    from ntkcli.steps.scores import query as step

    return Queried.of(step.query(path_of(given.pop("store")), **given))
