"""`ntksel featurize`: parse, call the step, show."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ntkcli import options as o
from ntkcli.choices import Dtype, Kind, OnError, Pooling, Positions, Projection, StoreDtype, TextAs
from ntkcli.console import Output
from ntkcli.engine.gradients.registry import PROBES
from ntkcli.errors import ExitCode
from ntkcli.formatting import estimate_line
from ntkcli.help_panels import Command, examples
from ntkcli.kernel_presets import DEFAULT
from ntkcli.paths import AND

EXAMPLE = "ntksel featurize med --data pool.jsonl --name pool --kind ntk --model ./Llama-3-8B --adapter warmup"
SECOND = "ntksel featurize med --data pool.jsonl --name pool --kind embed --model ./Llama-3-8B --dry-run"
PROBE_HELP = "; ".join(f"{name}: {each.summary}" for name, each in PROBES.builtin.items())


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(EXAMPLE, SECOND))(featurize)


def featurize(
    context: typer.Context,
    store: o.Store,
    data: o.Data,
    name: Annotated[str, typer.Option(help="Name of the data set in the store.", show_default=False)],
    kind: Annotated[
        Kind,
        typer.Option(
            help="Kind of feature. ntk: LoRA gradients of the logits; loss: LoRA gradients of the loss; embed: pooled "
            "hidden states.",
            show_default=False,
        ),
    ],
    model: o.Model,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="Adapter to use: a run of the store, or a folder with a PEFT LoRA adapter.",
            show_default="none: a fresh one",
        ),
    ] = None,
    feature: Annotated[
        str | None, typer.Option(help="Name of the features in the store.", show_default="the kind")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Compute only the rows of this selection.", show_default="all")
    ] = None,
    max_length: o.MaxLength = 1024,
    positions: Annotated[
        Positions | None,
        typer.Option(
            help="Which tokens of a row the feature is computed from.", show_default="completion; all for embed"
        ),
    ] = None,
    pooling: Annotated[
        Pooling,
        typer.Option(help="embed: how hidden states are pooled: mean, weighted by position, or the last token only."),
    ] = Pooling.MEAN,
    probe: Annotated[str, o.named(PROBES, f"ntk: direction in logit space. {PROBE_HELP}.")] = DEFAULT.probe,
    probes: Annotated[
        int,
        typer.Option(
            min=1, help="ntk: how many directions are averaged; each adds a backward pass (rademacher, centred)."
        ),
    ] = 1,
    layers: Annotated[
        str, typer.Option(help="ntk, loss: blocks whose adapters are used: all, last:N, or numbers like 0,20-29.")
    ] = "all",
    projection: Annotated[
        Projection,
        typer.Option(help="ntk, loss: how gradients are projected: sjlt sketch, dense random signs (slow), or none."),
    ] = Projection.SJLT,
    dim: Annotated[int, typer.Option(min=1, help="ntk, loss: how many numbers a projected gradient has.")] = 8192,
    seed: Annotated[int, typer.Option(help="ntk, loss: seed of the projection and the probes.")] = 0,
    rank: Annotated[int, typer.Option(min=1, help="ntk, loss without --adapter: rank of the fresh adapter.")] = 16,
    target_modules: Annotated[
        str, typer.Option(help="ntk, loss without --adapter: layers of the fresh adapter (all-linear, or names).")
    ] = "all-linear",
    adapter_seed: Annotated[int, typer.Option(help="ntk, loss without --adapter: seed of the fresh adapter.")] = 0,
    adam: Annotated[
        bool,
        typer.Option(
            "--adam", help="loss: use Adam's step for the gradient; needs --adapter of a run with --keep-optimizer."
        ),
    ] = False,
    losses: Annotated[
        bool,
        typer.Option(
            "--losses",
            help="Also keep each row's loss (and with --adapter, its loss without the adapter), for `score --method "
            "drop` and `score --residual`.",
        ),
    ] = False,
    store_dtype: Annotated[
        StoreDtype,
        typer.Option("--store-dtype", help="Number format on disk; int8 takes half the disk, with one scale per row."),
    ] = StoreDtype.FLOAT16,
    dtype: o.DtypeOption = Dtype.AUTO,
    device: o.Device = "auto",
    batch_tokens: o.BatchTokens = None,
    part_rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows per part, the unit of resume.", show_default="256; 1024 for embed; more for large data"
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Compute only the parts I, I+N, ...",
            metavar="I/N",
            show_default="0/1; the rank under torchrun or SLURM",
        ),
    ] = None,
    shard_model: o.ShardModel = False,
    ray: o.Ray = None,
    on_error: o.OnErrorOption = OnError.FAIL,
    columns: o.Columns = None,
    split: o.Split = None,
    thinking: o.ThinkingOption = None,
    text_as: o.TextAsOption = TextAs.CHAT,
    trust_remote_code: o.TrustRemoteCode = False,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Compute features of every row: sketched per-example LoRA gradients, or embeddings."""
    from ntkcli.commands.on_ranks import holders
    from ntkcli.commands.on_ray import share_own
    from ntkcli.steps.features import featurize as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    given: dict[str, Any] = {
        "data": AND.join(data),
        "name": name,
        "kind": kind,
        "model": model,
        "adapter": adapter,
        "feature": feature,
        "rows": rows,
        "max_length": max_length,
        "positions": positions,
        "pooling": pooling,
        "probe": probe,
        "probes": probes,
        "layers": layers,
        "projection": projection,
        "dim": dim,
        "seed": seed,
        "store_dtype": store_dtype,
        "dtype": dtype,
        "device": o.own_device(device),
        "batch_tokens": batch_tokens,
        "part_rows": part_rows,
        "shard": o.parse_shard(shard) if shard else o.own_shard_of("featurize", data=data),
        "on_error": on_error,
        "columns": o.parse_columns(columns),
        "split": split,
        "thinking": o.is_on(thinking),
        "text_as": text_as,
        "trust_remote_code": trust_remote_code,
        "rank": rank,
        "target_modules": target_modules,
        "adapter_seed": adapter_seed,
        "adam": adam,
        "losses": losses,
    }
    if dry_run and not shard_model:
        from ntkcli.steps.features.dry_run import estimate_featurize
        from ntkcli.steps.features.request import FeatureRequest

        found = estimate_featurize(store, FeatureRequest.of(**given))
        output.result(found, line=estimate_line(found))
        return ExitCode.OK
    share_own(context, ray, store, output)
    with holders(shard_model, given["device"], shard=shard, dry_run=dry_run) as processes:
        result = step.featurize(store, **given, processes=processes, progress=output.progress)
    state = "" if result.complete else f" (of {result.rows}; other shards are to come)"
    output.result(
        result,
        line=f"{result.artefact}: {result.rows_done} rows{state}, {result.computed} computed, {result.truncated} "
        f"truncated, {result.skipped} skipped, digest {result.digest}",
    )
    output.next_step(
        "ntksel score {store} --pool POOL --domain DOMAIN --method mean --feature {feature} --name SCORE",
        store=store, feature=feature or kind,
    )  # fmt: skip
    return ExitCode.ROWS_SKIPPED if result.skipped else ExitCode.OK
