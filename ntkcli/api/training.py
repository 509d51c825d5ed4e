"""Fine-tune and evaluate, with the options of the commands of the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ntkcli.api.opening import StorePath, path_of
from ntkcli.api.results import Evaluated, Trained
from ntkcli.choices import Dtype, LossPer, Normalise, OnError, Schedule, Scorer, TextAs, Thinking
from ntkcli.options import is_on
from ntkcli.progress import Progress


def finetune(
    store: StorePath, *, model: str, train: Sequence[str], name: str, then: Sequence[str] | None = None,
    epochs: int | None = None, max_tokens: int | None = None, match_tokens: str | None = None,
    max_steps: int | None = None, match_steps: str | None = None, lr: float = 2e-4,
    schedule: Schedule = Schedule.COSINE, warmup: float = 0.03, rank: int | None = None, alpha: float | None = None,
    target_modules: str | None = None, init_adapter: str | None = None, batch_size: int = 16,
    batch_tokens: int | None = None, gradient_checkpointing: bool = False, max_length: int = 1024,
    seed: int | None = None, hold_out: float = 0.0, patience: int | None = None, loss_per: LossPer = LossPer.TOKEN,
    average_weights: bool = False, pack: bool = False, dtype: Dtype = Dtype.AUTO, device: str = "auto",
    checkpoint_steps: int | None = None, keep_optimizer: bool = False, on_error: OnError = OnError.FAIL,
    columns: Mapping[str, str] | None = None, split: str | None = None, data: Sequence[str] | None = None,
    thinking: Thinking | None = None, text_as: TextAs = TextAs.CHAT,
    trust_remote_code: bool = False, progress: Progress | None = None,
) -> Trained:  # fmt: skip
    """Fine-tune a LoRA adapter; resumes from its last checkpoint. Like `ntksel finetune` with one seed.

    Raises:
        DivergedError: the loss or the weights are not finite.
    """
    given = {**locals(), "thinking": is_on(thinking), "seed": seed or 0, "then": then or (), "data": data or ()}
    from ntkcli.steps.training import finetune as step

    found = step.finetune(path_of(given.pop("store")), **given)
    return Trained.of(found, store=path_of(store))


def evaluate(
    store: StorePath, *, model: str, run: Sequence[str], task: Sequence[str | Path], name: str,
    baseline: str | None = None, retain: Sequence[str | Path] | None = None, scorer: Scorer = Scorer.AUTO,
    normalise: Normalise = Normalise.SUM, max_new_tokens: int = 128, answer_pattern: str | None = None,
    max_length: int = 1024, dtype: Dtype = Dtype.AUTO, device: str = "auto", batch_tokens: int | None = None,
    on_error: OnError = OnError.FAIL, columns: Mapping[str, str] | None = None, split: str | None = None,
    thinking: Thinking | None = None, text_as: TextAs = TextAs.CHAT,
    num_fewshot: int | None = None, limit: int | None = None,
    apply_chat_template: bool = False, trust_remote_code: bool = False, export: str | Path | None = None,
    force: bool = False, progress: Progress | None = None,
) -> Evaluated:  # fmt: skip
    """Evaluate runs on the same items, with intervals and paired tests. Like `ntksel eval`.

    Raises:
        UsageError: a task or a run is not there, or an option can't be used.
    """
    given = {**locals(), "thinking": is_on(thinking), "retain": retain or ()}
    from ntkcli.steps.evaluation import evaluate as step

    found = step.evaluate(path_of(given.pop("store")), **given)
    return Evaluated.of(found, store=path_of(store))
