"""`ntksel featurize`: parse, call the step, show."""

from __future__ import annotations

from typing import Annotated

import typer

from ntkcli import options as o
from ntkcli.console import Output
from ntkcli.errors import ExitCode
from ntkcli.formatting import estimate_line
from ntkcli.seeds import check_seed

EXAMPLE = "ntksel featurize med --data pool.jsonl --name pool --kind ntk --model ./Llama-3-8B --adapter warmup"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog=f"Example: {EXAMPLE}")(featurize)


def featurize(
    store: o.Store,
    data: o.Data,
    name: Annotated[str, typer.Option(help="The data set's name in the store.", show_default=False)],
    kind: Annotated[
        o.Kind,
        typer.Option(
            help="ntk: LoRA gradients of the logits; loss: of the loss; embed: pooled hidden states.",
            show_default=False,
        ),
    ],
    model: o.Model,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="A run of the store, or a folder with a PEFT LoRA adapter.", show_default="none: a fresh one"
        ),
    ] = None,
    feature: Annotated[str | None, typer.Option(help="The features' name.", show_default="the kind")] = None,
    rows: Annotated[str | None, typer.Option(help="Only the rows of this selection.", show_default="all")] = None,
    max_length: o.MaxLength = 1024,
    positions: Annotated[
        o.Positions | None,
        typer.Option(help="Tokens the feature is made of.", show_default="completion; all for embed"),
    ] = None,
    pooling: Annotated[
        o.Pooling, typer.Option(help="embed: mean, weighted by position, or the last token's.")
    ] = o.Pooling.MEAN,
    probe: Annotated[o.Probe, typer.Option(help="ntk: direction in logit space; sum is the paper's.")] = o.Probe.SUM,
    probes: Annotated[
        int, typer.Option(min=1, help="ntk: directions averaged, each one more backward (rademacher, centred).")
    ] = 1,
    layers: Annotated[
        str, typer.Option(help="ntk, loss: blocks whose adapters count: all, last:N, or numbers like 0,20-29.")
    ] = "all",
    projection: Annotated[
        o.Projection, typer.Option(help="ntk, loss: sjlt sketch, the paper's dense signs (slow), or none.")
    ] = o.Projection.SJLT,
    dim: Annotated[int, typer.Option(min=1, help="ntk, loss: numbers a projection has.")] = 8192,
    seed: Annotated[int, typer.Option(help="ntk, loss: of projection and probes.")] = 0,
    rank: Annotated[int, typer.Option(min=1, help="ntk, loss without --adapter: rank of the fresh one.")] = 16,
    target_modules: Annotated[
        str, typer.Option(help="ntk, loss without --adapter: its layers (all-linear, or names).")
    ] = "all-linear",
    adapter_seed: Annotated[int, typer.Option(help="ntk, loss without --adapter: seed of the fresh one.")] = 0,
    adam: Annotated[
        bool, typer.Option("--adam", help="loss: Adam's step for the gradient; needs --adapter of a run that kept it.")
    ] = False,
    store_dtype: Annotated[
        o.StoreDtype,
        typer.Option("--store-dtype", help="Format features are kept in; int8: half the disk, one scale a row."),
    ] = o.StoreDtype.FLOAT16,
    dtype: o.DtypeOption = o.Dtype.AUTO,
    device: o.Device = "auto",
    batch_tokens: o.BatchTokens = None,
    part_rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows of a part, the unit of resume.", show_default="256; 1024 for embed; more for large data"
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Compute the parts I, I+N, ... only.",
            metavar="I/N",
            show_default="0/1; the rank under torchrun or SLURM",
        ),
    ] = None,
    on_error: o.OnErrorOption = o.OnError.FAIL,
    columns: o.Columns = None,
    split: o.Split = None,
    thinking: o.ThinkingOption = None,
    trust_remote_code: o.TrustRemoteCode = False,
    dry_run: o.DryRun = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Compute features of every row: sketched per-example LoRA gradients, or embeddings."""
    from ntkcli.steps.features import featurize as step

    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    check_seed("--seed", seed)
    check_seed("--adapter-seed", adapter_seed)
    if dry_run:
        from ntkcli.steps.features.dry_run import estimate_featurize

        found = estimate_featurize(
            store,
            data=data,
            name=name,
            kind=kind.value,
            model=model,
            rows=rows,
            max_length=max_length,
            dim=dim,
            probe=probe.value,
            probes=probes,
            projection=projection.value,
            device=device,
            on_error=on_error.value,
            store_dtype=store_dtype.value,
            columns=o.parse_columns(columns),
            split=split,
            thinking=o.is_on(thinking),
            trust_remote_code=trust_remote_code,
        )
        output.result(found, line=estimate_line(found))
        return ExitCode.OK
    result = step.featurize(
        store,
        data=data,
        name=name,
        kind=kind.value,
        model=model,
        adapter=adapter,
        feature=feature,
        rows=rows,
        max_length=max_length,
        positions=positions.value if positions else None,
        pooling=pooling.value,
        probe=probe.value,
        probes=probes,
        layers=layers,
        projection=projection.value,
        dim=dim,
        seed=seed,
        store_dtype=store_dtype.value,
        dtype=dtype.value,
        device=o.own_device(device),
        batch_tokens=batch_tokens,
        part_rows=part_rows,
        shard=o.parse_shard(shard) if shard else o.own_shard(),
        on_error=on_error.value,
        columns=o.parse_columns(columns),
        split=split,
        thinking=o.is_on(thinking),
        trust_remote_code=trust_remote_code,
        rank=rank,
        target_modules=target_modules,
        adapter_seed=adapter_seed,
        adam=adam,
        progress=output.progress,
    )
    state = "" if result.complete else f" (of {result.rows}; other shards are to come)"
    output.result(
        result,
        line=f"{result.artefact}: {result.rows_done} rows{state}, {result.computed} computed, {result.truncated} "
        f"truncated, {result.skipped} skipped, digest {result.digest}",
    )
    output.next_step(
        f"ntksel score {store} --pool POOL --domain DOMAIN --method mean --feature {feature or kind} --name SCORE"
    )
    return ExitCode.ROWS_SKIPPED if result.skipped else ExitCode.OK
