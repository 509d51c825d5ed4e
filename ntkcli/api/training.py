"""Fine-tune, evaluate and merge, with the options of the commands of the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ntkcli.api.on_cluster import share
from ntkcli.api.opening import StorePath, path_of
from ntkcli.api.results import Evaluated, Merged, RatesFound, Trained
from ntkcli.choices import Dtype, LossPer, Normalise, OnError, Schedule, Scorer, TextAs, Thinking
from ntkcli.options import is_on
from ntkcli.progress import Progress


def finetune(
    store: StorePath, *, model: str, train: Sequence[str], name: str, then: Sequence[str] | None = None,
    epochs: int | None = None, max_tokens: int | None = None, match_tokens: str | None = None,
    max_steps: int | None = None, match_steps: str | None = None, lr: float | None = None,
    schedule: Schedule = Schedule.COSINE, warmup: float = 0.03, rank: int | None = None, alpha: float | None = None,
    target_modules: str | None = None, init_adapter: str | None = None, batch_size: int = 16,
    batch_tokens: int | None = None, gradient_checkpointing: bool = False, max_length: int = 1024,
    seed: int | None = None, hold_out: float = 0.0, hold_out_of: str | None = None, patience: int | None = None,
    loss_per: LossPer = LossPer.TOKEN, average_weights: bool = False, pack: bool = False, dtype: Dtype = Dtype.AUTO,
    device: str = "auto", checkpoint_steps: int | None = None, keep_optimizer: bool = False,
    keep_checkpoints: bool = False, report_to: Sequence[str] | None = None, push_to_hub: str | None = None,
    public: bool = False, on_error: OnError = OnError.FAIL, columns: Mapping[str, str] | None = None,
    split: str | None = None, data: Sequence[str] | None = None, thinking: Thinking | None = None,
    text_as: TextAs = TextAs.CHAT, trust_remote_code: bool = False, progress: Progress | None = None,
) -> Trained:  # fmt: skip
    """Fine-tune a LoRA adapter; resumes from its last checkpoint. Like `ntksel finetune` with one seed.

    Without `lr` the rate is set by the model's width. `push_to_hub` puts the adapter into a repository of the Hub,
    which is private unless `public`.

    Raises:
        DivergedError: the loss or the weights are not finite.
    """
    given = {**locals(), "thinking": is_on(thinking), "seed": seed or 0, "then": then or (), "data": data or ()}
    given["report_to"] = report_to or ()
    from ntkcli.steps.training import finetune as step

    found = step.finetune(path_of(given.pop("store")), **given)
    return Trained.of(found, store=path_of(store))


def find_learning_rate(
    store: StorePath, *, model: str, train: Sequence[str], name: str, lr_rates: Sequence[float] | None = None,
    lr_steps: int | None = None, seeds: Sequence[int] | None = None, epochs: int | None = None,
    max_tokens: int | None = None, match_tokens: str | None = None, max_steps: int | None = None,
    match_steps: str | None = None, schedule: Schedule = Schedule.COSINE, warmup: float = 0.03, rank: int | None = None,
    alpha: float | None = None, target_modules: str | None = None, init_adapter: str | None = None,
    batch_size: int = 16, batch_tokens: int | None = None, gradient_checkpointing: bool = False, max_length: int = 1024,
    hold_out: float = 0.0, loss_per: LossPer = LossPer.TOKEN, average_weights: bool = False, pack: bool = False,
    dtype: Dtype = Dtype.AUTO, device: str = "auto", on_error: OnError = OnError.FAIL,
    columns: Mapping[str, str] | None = None, split: str | None = None, data: Sequence[str] | None = None,
    thinking: Thinking | None = None, text_as: TextAs = TextAs.CHAT, trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> RatesFound:  # fmt: skip
    """Try several learning rates in short trials, and recommend one. Like `ntksel finetune --lr-find`.

    They are judged on rows of the first of `train` (the domain) that are held out: the share `hold_out`, or for 0 a
    fifth and at most 200 rows. By default it tries 7 rates from 0.0001 to 0.003, for at most 100 steps each, with the
    seed 0.

    Raises:
        UsageError: rows or options can't be used.
    """
    given = {**locals(), "thinking": is_on(thinking), "seeds": seeds or (0,), "data": data or ()}
    from ntkcli.steps.training.lr_find import find_rate

    path = path_of(given.pop("store"))
    left = [key for key in ("lr_rates", "lr_steps") if given[key] is None]  # the step's own defaults
    return RatesFound.of(find_rate(path, **{key: value for key, value in given.items() if key not in left}))


def evaluate(
    store: StorePath, *, model: str, run: Sequence[str], task: Sequence[str | Path], name: str,
    baseline: str | None = None, retain: Sequence[str | Path] | None = None, scorer: Scorer = Scorer.AUTO,
    normalise: Normalise = Normalise.SUM, max_new_tokens: int = 128, answer_pattern: str | None = None,
    max_length: int = 1024, dtype: Dtype = Dtype.AUTO, device: str = "auto", batch_tokens: int | None = None,
    on_error: OnError = OnError.FAIL, columns: Mapping[str, str] | None = None, split: str | None = None,
    thinking: Thinking | None = None, text_as: TextAs = TextAs.CHAT, num_fewshot: int | None = None,
    limit: int | None = None, apply_chat_template: bool = False, trust_remote_code: bool = False,
    ray: str | None = None, export: str | Path | None = None, plot: str | Path | None = None, force: bool = False,
    progress: Progress | None = None,
) -> Evaluated:  # fmt: skip
    """Evaluate runs on the same items, with intervals and paired tests. Like `ntksel eval`.

    `ray`: share the work over a Ray cluster, its address or `local`.

    Raises:
        UsageError: a task or a run is not there, or an option can't be used.
    """
    asked = locals().copy()
    given = {**asked, "thinking": is_on(thinking), "retain": retain or ()}
    del given["ray"]
    from ntkcli.data.references import split_name
    from ntkcli.steps.evaluation import evaluate as step
    from ntkcli.steps.shared.outputs import Inputs
    from ntkcli.steps.shared.pictures import check_picture, write_arms
    from ntkcli.steps.shared.stores import is_store, open_store

    path, drawn = path_of(given.pop("store")), given.pop("plot")
    picture = None if drawn is None else Path(drawn)
    inputs = Inputs([split_name(str(each))[1] for each in (*task, *(retain or ()))], (model,))
    check_picture(picture, inputs=inputs, stored=open_store(path) if is_store(path) else None, force=force)
    share("eval", asked)
    found = step.evaluate(path, **given)
    if picture is not None:
        write_arms(picture, [("", found.baseline, found.scores)], kind="eval")
    return Evaluated.of(found, store=path)


def merge(
    store: StorePath, *, run: str, out: str | Path, dtype: Dtype = Dtype.AUTO, gguf: str | Path | None = None,
    model: str | None = None, trust_remote_code: bool = False, force: bool = False, progress: Progress | None = None,
) -> Merged:  # fmt: skip
    """Merge a run's adapter into its base model, for transformers, vLLM and llama.cpp. Like `ntksel merge`.

    Raises:
        UsageError: the run is not there, `out` or `gguf` exists already, or the model can't be merged.
        IncompleteError: the run is not finished.
    """
    given = locals().copy()
    from ntkcli.steps.training import merge as step

    return Merged.of(step.merge(path_of(given.pop("store")), **given))
