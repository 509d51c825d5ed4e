"""Whole comparisons, checks and the data for them: arms, validate, diagnose and split, with these commands' options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ntkcli.api.names import ProbeName, ScoreName
from ntkcli.api.on_cluster import share
from ntkcli.api.opening import StorePath, path_of
from ntkcli.api.results import Compared, Diagnosed, Split, Validated
from ntkcli.choices import Design, Dtype, Equalise, LossPer, OnError, Preset, Schedule, TextAs, Thinking
from ntkcli.console import Output
from ntkcli.progress import Progress

ArmName: TypeAlias = Literal[
    "base", "domain", "domain-steps", "domain-tokens", "random", "random-length", "oracle", "embedding",
    "preselect-random", "bm25", "dsir", "rds", "random-selected", "selected", "rounds",
]  # fmt: skip
"""An arm of a comparison, as `arms --arms` names it."""
CheckName: TypeAlias = Literal["length", "supply", "kernel", "sketch", "stability", "regression", "all"]
"""A diagnosis, as `diagnose` names it."""


def arms(
    store: StorePath, *, model: str, domain: str, task: Sequence[str] | None = None, folds: int | None = None,
    by: str | None = None, pool: str | None = None, n: int | None = None, token_budget: int | None = None,
    arms: Sequence[ArmName] | None = None, seeds: Sequence[int] = (0,), baseline: str | None = None,
    draws: int | None = None, sizes: Sequence[int] | None = None, equalise: Equalise | None = None,
    domain_repeat: int | None = None, oracle: str | None = None, rounds: int | None = None, coarse: int | None = None,
    preset: Preset = Preset.DEFAULT, probe: Sequence[ProbeName] | None = None, probes: int = 1,
    method: ScoreName | None = None, centre: bool | None = None, dim: int = 8192, epochs: int = 3,
    warmup_epochs: int = 1, lr: float | None = None, rank: int | None = None, batch_size: int = 16,
    schedule: Schedule = Schedule.COSINE, warmup: float = 0.03, alpha: float | None = None,
    target_modules: str | None = None, loss_per: LossPer | None = None, average_weights: bool = False,
    hold_out: float = 0.0, patience: int | None = None, gradient_checkpointing: bool = False, max_length: int = 1024,
    dtype: Dtype = Dtype.AUTO, device: str = "auto", domain_split: str | None = None, pool_split: str | None = None,
    retain: Sequence[str] | None = None, on_error: OnError = OnError.FAIL, thinking: Thinking | None = None,
    text_as: TextAs = TextAs.CHAT, trust_remote_code: bool = False, allow_overlap: bool = False, name: str = "arms",
    prefix: str = "", ray: str | None = None, export: str | Path | None = None, plot: str | Path | None = None,
    force: bool = False, quiet: bool = True,
) -> Compared:  # fmt: skip
    """Compare selected rows with random rows, the domain alone and other baselines under one budget, resumable.

    Like `ntksel arms`: on `task`, or on the domain's own rows in `folds`. `ray`: share the work over a Ray cluster, its
    address or `local`. Not `quiet`: progress and the commands that
    it runs go to stderr.

    Raises:
        UsageError: rows, tasks or options can't be used, or items of a task are rows of the domain.
    """
    given = {**_options(locals()), "arms": None if arms is None else ",".join(arms), "seeds": _numbers(seeds)}
    from ntkcli.commands.arms import arms as command

    given |= {"sizes": None if sizes is None else _numbers(sizes), "recipe": None, "dry_run": False}
    return Compared.of(_result_of(command, **given))


def validate(
    store: StorePath, *, score: Sequence[str], model: str, domain: str, name: str, task: Sequence[str] | None = None,
    folds: int | None = None, by: str | None = None, design: Design = Design.BOTH, bins: str = "5", subsets: int = 40,
    rows: int | None = None, seeds: Sequence[int] = (0, 1, 2), domain_repeat: int | None = None,
    oracle: str | None = None, epochs: int | None = None, max_tokens: int | None = None, lr: float | None = None,
    schedule: Schedule = Schedule.COSINE, warmup: float = 0.03, rank: int | None = None, alpha: float | None = None,
    target_modules: str | None = None, init_adapter: str | None = None, batch_size: int = 16,
    batch_tokens: int | None = None, gradient_checkpointing: bool = False, max_length: int = 1024,
    loss_per: LossPer = LossPer.ROW, average_weights: bool | None = None, hold_out: float = 0.0,
    patience: int | None = None, dtype: Dtype = Dtype.AUTO, device: str = "auto",
    columns: Mapping[str, str] | None = None, split: str | None = None, thinking: Thinking | None = None,
    text_as: TextAs = TextAs.CHAT, trust_remote_code: bool = False, keep_runs: bool = False, ray: str | None = None,
    plot: str | Path | None = None, export: str | Path | None = None, force: bool = False, quiet: bool = True,
) -> Validated:  # fmt: skip
    """Train on the rows that scores like best and least, and report whether the best help more; resumes run by run.

    Like `ntksel validate`: on `task`, or on the domain's own rows in `folds`. `average_weights` None is True, but False
    with `hold_out`. `ray`: share the work over a Ray cluster, its address or `local`. Not `quiet`: progress goes to
    stderr.

    Raises:
        UsageError: scores, rows or options can't be used.
    """
    asked = locals().copy()
    share("validate", asked)
    given = {**_options(asked), "seeds": _numbers(seeds), "dry_run": False}
    from ntkcli.commands.validate import validate as command

    given |= {"columns": _columns(columns), "ray": None, "context": None}
    return Validated.of(_result_of(command, **given))


def diagnose(
    store: StorePath, *, check: CheckName, score: Sequence[str] | None = None, tokens_of: str | None = None,
    pool: str | None = None, domain: str | None = None, model: str | None = None, adapter: str | None = None,
    feature: str | None = None, run: Sequence[str] | None = None, eval: str | None = None,  # noqa: A002  # as the option
    rows: int | None = None, domain_rows: int | None = None, n: int | None = None, near: float | None = None,
    seed: int | None = None, probe: ProbeName | None = None, layers: str | None = None, dim: int | None = None,
    dims: Sequence[int] | None = None, max_length: int | None = None, columns: Mapping[str, str] | None = None,
    split: str | None = None, on_error: OnError | None = None, thinking: Thinking | None = None,
    trust_remote_code: bool = False, dtype: Dtype | None = None, device: str | None = None,
    batch_tokens: int | None = None, plot: str | Path | None = None, force: bool = False, quiet: bool = True,
) -> Diagnosed:  # fmt: skip
    """Check what a choice of rows rests on: one number, its interval and a sentence for each question.

    Like `ntksel diagnose`. Not `quiet`: progress goes to stderr.

    Raises:
        UsageError: an option is missing, or the diagnosis does not take it.
    """
    given = {**_options(locals()), "columns": _columns(columns), "dims": None if dims is None else _numbers(dims)}
    from ntkcli.commands.diagnose import diagnose as command

    return Diagnosed.of(_result_of(command, eval_name=given.pop("eval"), dry_run=False, **given))


def split(
    data: str, *, test: float | None = None, folds: int | None = None, by: str | None = None, seed: int = 0,
    out: str | Path | None = None, columns: Mapping[str, str] | None = None, split: str | None = None,
    on_error: OnError = OnError.FAIL, force: bool = False, progress: Progress | None = None,
) -> Split:  # fmt: skip
    """Split a data file into train and test, or folds; near-duplicates and groups stay on one side.

    Like `ntksel split`.

    Raises:
        UsageError: neither or both of `test` and `folds`, or a file of the user's is in the way.
    """
    given = locals().copy()
    from ntkcli.steps.splits import split as step

    return Split.of(step.split(given.pop("data"), split_name=given.pop("split"), **given))


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the command takes them: lists as lists, paths as paths."""
    lists = {key: list(value) for key, value in given.items() if isinstance(value, tuple)}
    files = {key: Path(given[key]) for key in ("export", "plot") if given.get(key) is not None}
    return {**given, **lists, **files, "store": path_of(given["store"])}


def _columns(columns: Mapping[str, str] | None) -> str | None:
    return None if columns is None else ",".join(f"{key}={own}" for key, own in columns.items())


def _numbers(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


def _result_of(command: Any, **given: Any) -> Any:
    """What a command would print."""
    with Output.collecting() as found:
        command(**given, json=True, verbose=False)
    return found[0]
