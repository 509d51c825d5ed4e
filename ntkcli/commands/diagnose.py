"""`ntksel diagnose`: parse, call the step, show."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntkcli import options as o
from ntkcli.choices import Dtype, OnError
from ntkcli.console import Output
from ntkcli.engine.gradients.registry import PROBES
from ntkcli.errors import ExitCode, UsageError
from ntkcli.help_panels import Command, examples

if TYPE_CHECKING:
    from ntkcli.steps.diagnosis.diagnose import Diagnosis

EXAMPLES = (
    "ntksel diagnose med length --score stage2 --plot length.svg",
    "ntksel diagnose med supply --pool pool.parquet --domain domain.jsonl --model ./Llama-3-8B -n 9000",
    "ntksel diagnose med kernel --pool pool --domain domain --model ./Llama-3-8B --adapter warmup --dry-run",
    "ntksel diagnose med stability --pool pool --domain domain --run warmup",
)


class Kind(StrEnum):
    """What is diagnosed."""

    LENGTH = "length"
    SUPPLY = "supply"
    KERNEL = "kernel"
    SKETCH = "sketch"
    STABILITY = "stability"
    REGRESSION = "regression"
    ALL = "all"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(cls=Command, epilog=examples(*EXAMPLES))(diagnose)


def diagnose(
    store: o.Store,
    check: Annotated[
        Kind,
        typer.Argument(
            help="length: how far scores follow the length of rows. supply: how many rows of the pool are near the "
            "domain. kernel: which probe agrees with the exact kernel. sketch: how exact a sketch is, by its size. "
            "stability: whether scores stay the same as a model is trained, and across seeds. regression: kernel "
            "regression against the fine-tuned model. all: every check that the options are enough for.",
            show_default=False,
        ),
    ],
    score: Annotated[
        list[str] | None,
        typer.Option(help="length: a score of the store; repeatable.", show_default="all of them"),
    ] = None,
    tokens_of: o.TokensOf = None,
    pool: Annotated[
        str | None,
        typer.Option(
            help="The rows to choose from: a data set or selection of the store, or a data file.", show_default=False
        ),
    ] = None,
    domain: Annotated[
        str | None,
        typer.Option(
            help="The domain's rows: a data set or selection of the store, or a data file.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Base model: a folder, a GGUF file or a Hub id (org/name or org/name@revision).",
            show_default="stability, regression: that of the run",
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="Adapter to compute features with: a run of the store or a folder.",
            show_default="a fresh one; supply: none",
        ),
    ] = None,
    feature: Annotated[
        str | None,
        typer.Option(help="supply: features of the store for both, instead of --model.", show_default="none"),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="stability: a run, or the name of runs that differ in the seed; repeatable. regression: the run "
            "to compare with.",
            show_default=False,
        ),
    ] = None,
    eval_name: Annotated[
        str | None,
        typer.Option(
            "--eval", help="regression: the eval of the store that has the run's answers.", show_default=False
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows drawn from the pool.", show_default="supply 2000, kernel 8, sketch and stability 64"
        ),
    ] = None,
    domain_rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows drawn from the domain.",
            show_default="supply 500, kernel 4, sketch 8, stability 32",
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="supply: rows that you want to choose.", show_default="none")
    ] = None,
    near: Annotated[
        float | None,
        typer.Option(
            help="supply: a row is near if its nearness (mean of its 5 highest centred cosines with domain rows) "
            "reaches this percentile of the nearness of the domain's own rows, each compared with the others.",
            show_default="5",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the rows drawn.", show_default="0")] = None,
    probe: Annotated[
        str | None,
        o.named(PROBES, "Direction in logit space of the features.", show_default="centred"),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Adapted blocks: all, last:N, or numbers.", show_default="last:4"),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Size of the sketch of the features.", show_default="8192")
    ] = None,
    dims: Annotated[
        str | None,
        typer.Option(help="sketch: the sizes to try.", metavar="P,...", show_default="512,1024,...,16384"),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=3,
            help="Longest row in tokens; a longer row loses its oldest turns, or the start of its prompt.",
            show_default="1024; kernel and sketch 128",
        ),
    ] = None,
    columns: o.Columns = None,
    split: o.Split = None,
    on_error: Annotated[
        OnError | None,
        typer.Option(help="What to do with unusable rows: stop, or skip them (exit 3).", show_default="fail"),
    ] = None,
    thinking: o.ThinkingOption = None,
    trust_remote_code: o.TrustRemoteCode = False,
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="Number format to compute in; auto: bfloat16 on CUDA, else float32.", show_default="auto"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device to compute on: auto, cpu, cuda or cuda:I.", show_default="auto")
    ] = None,
    batch_tokens: o.BatchTokens = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it: .png or .svg.", show_default="no picture")] = None,
    force: o.Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report what it would take: rows, tokens, passes, time.")
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Check what a choice of rows rests on: one number, its interval and a sentence for each question."""
    from ntkcli.steps.diagnosis import diagnose as step
    from ntkcli.steps.diagnosis.plot import check_plot, write_plot
    from ntkcli.steps.shared.outputs import Inputs

    o.refuse_ranks("diagnose")
    output = Output(as_json=json, quiet=quiet, verbose=verbose)
    options: dict[str, Any] = {
        "score": tuple(score or ()),
        "tokens_of": tokens_of,
        "pool": pool,
        "domain": domain,
        "model": model,
        "adapter": adapter,
        "feature": feature,
        "run": tuple(run or ()),
        "eval_name": eval_name,
        "rows": rows,
        "domain_rows": domain_rows,
        "n": n,
        "near": near,
        "seed": seed,
        "probe": probe,
        "layers": layers,
        "dim": dim,
        "dims": None if dims is None else _dims(dims),
        "max_length": max_length,
        "columns": o.parse_columns(columns),
        "split": split,
        "on_error": on_error,
        "thinking": o.is_on(thinking),
        "trust_remote_code": trust_remote_code or None,
        "dtype": dtype,
        "device": device,
        "batch_tokens": batch_tokens,
    }
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if plot is not None:
        inputs = Inputs([each for each in (pool, domain) if each], [model] if model else [])
        check_plot(store, plot, inputs=inputs, force=force)
    if dry_run:
        found = step.costs(store, check=check, **given)
        left_out = [f"{name}: left out, {why}" for name, why in found.left_out.items()]
        output.result(found, line="\n".join([*map(str, found.costs), *left_out]))
        return ExitCode.OK
    result, panels = step.diagnose(store, check=check, progress=output.progress, **given)
    if plot is not None and panels:
        write_plot(plot, panels)
    if json:
        output.result(result, line="")
    else:
        _show(output, result)
    return ExitCode.ROWS_SKIPPED if result.skipped else ExitCode.OK


def _show(output: Output, result: Diagnosis) -> None:
    rows = [
        [f"{one.name}: {one.subject}", _number(one.value), f"{_number(one.low)} to {_number(one.high)}"]
        for one in result.checks
    ]
    output.table("", ["diagnosis", "value", "95% interval"], rows)
    for one in result.checks:
        output.say(one.sentence)
    for name, why in result.left_out.items():
        output.say(f"{name} was left out: {why}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or (value == int(value) and abs(value) > 1) else f"{value:.3f}"


def _dims(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise UsageError(f"--dims {text}: expected whole numbers, 1 or more.", "As in --dims 512,2048,8192.")
    return tuple(sorted({int(part) for part in parts}))
