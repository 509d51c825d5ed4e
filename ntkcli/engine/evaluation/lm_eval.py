"""The model as lm-evaluation-harness wants one: its requests are computed by the engine of `ntksel eval`.

The harness prepares tasks and makes metrics of the answers; likelihoods share the prompt of a question's choices and
come from the model with the adapter in use. Needs the package lm_eval.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM

from ntkcli.data.encoding import Encoded
from ntkcli.engine.evaluation.evaluator import Evaluator
from ntkcli.engine.evaluation.generation import stop_tokens
from ntkcli.errors import NtkselError, UsageError
from ntkcli.progress import Progress

DEFAULT_NEW_TOKENS = 256
"""Of an answer whose task names no length, as HFLM has it."""
ANSWERS_AT_ONCE = 64
"""Requests between two lines of progress."""
Request = tuple[tuple[str, str], list[int], list[int]]


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """lm-evaluation-harness's interface around an `Evaluator`; the harness's own class tokenises pairs of texts."""

    def __init__(self, evaluator: Evaluator, *, max_length: int, progress: Progress) -> None:
        super().__init__()
        self._evaluator, self._max_length, self._progress = evaluator, max_length, progress
        self.tokenizer = evaluator.loaded.tokenizer

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context: begin of text, else end, as HFLM has it."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer in the harness's records."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; special ones as the tokenizer adds them, unless the text begins with one or the flag says."""
        bos = self.tokenizer.bos_token
        if add_special_tokens is None:
            add_special_tokens = not (bos and string.startswith(bos))
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as one text, by the tokenizer's template."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def _loglikelihood_tokens(self, requests: Sequence[Request], **options: Any) -> list[tuple[float, bool]]:
        """Sum of log-probabilities and whether the continuation is the greedy one; contexts lose their beginning."""
        del options
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(tuple(request[1]), []).append(i)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        order = list(groups.values())
        self._progress.start("likelihoods", total=len(requests), unit="requests")
        for start in range(0, len(order), 64):
            chunk = order[start : start + 64]
            items = [[self._encoded(requests[i][1], requests[i][2]) for i in members] for members in chunk]
            found = self._evaluator.likelihoods(items)
            for members, values, most_likely in zip(chunk, found.sums, found.greedy, strict=True):
                for i, value, best in zip(members, values, most_likely, strict=True):
                    answers[i] = (float(value), bool(best))
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], answers[i])
            self._progress.advance(sum(map(len, chunk)), tokens=sum(len(one) for item in items for one in item))
        self._progress.stop()
        return answers

    def _encoded(self, context: list[int], continuation: list[int]) -> Encoded:
        """As the harness cuts it: the last `max_length` + 1 tokens, the very last of which is predicted, not read."""
        whole = (context + continuation)[-(self._max_length + 1) :]
        ids = np.array(whole, dtype=np.int32)
        supervised = np.arange(len(ids)) >= max(1, len(ids) - len(continuation))
        return Encoded(ids, supervised, truncated=len(whole) < len(context) + len(continuation))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text, in windows of `max_length` tokens that share no predicted token."""
        del disable_tqdm
        totals = []
        for request in requests:
            (text,) = request.args
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._max_length,
                context_len=1,
            )
            pairs: list[Request] = [(("", ""), *utils.make_disjoint_window(window)) for window in windows]
            totals.append(sum(value for value, _ in self._loglikelihood_tokens(pairs)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers up to the first of each request's stop texts. NtkselError for a task that wants sampling."""
        del disable_tqdm
        texts = [""] * len(requests)
        groups: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            wanted = request.args[1]
            if wanted.get("do_sample") and wanted.get("temperature", 1.0):
                raise NtkselError(
                    f"the task {request.task_name} wants sampled answers, and `ntksel eval` writes greedy ones.",
                    "Leave the task out.",
                )
            groups.setdefault(int(wanted.get("max_gen_toks", DEFAULT_NEW_TOKENS)), []).append(i)
        stop_ids = stop_tokens(self._evaluator.loaded, None)
        self._progress.start("answers", total=len(requests), unit="requests")
        for new_tokens, members in groups.items():
            for start in range(0, len(members), ANSWERS_AT_ONCE):
                chunk = members[start : start + ANSWERS_AT_ONCE]
                prompts = [self._prompt(requests[i].args[0], new_tokens) for i in chunk]
                found = self._evaluator.continuations(prompts, stop_ids=stop_ids, max_new_tokens=new_tokens)
                for i, text in zip(chunk, found, strict=True):
                    texts[i] = _until(text, requests[i].args[1].get("until"))
                    self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
                self._progress.advance(len(chunk), tokens=sum(map(len, prompts)))
        self._progress.stop()
        return texts

    def _prompt(self, context: str, new_tokens: int) -> Encoded:
        """The context's last tokens, so that the answer has room as well."""
        ids = np.array(self.tok_encode(context)[-max(1, self._max_length - new_tokens) :], dtype=np.int32)
        return Encoded(ids, np.zeros(len(ids), dtype=np.bool_), truncated=False)


def _until(text: str, stops: Any) -> str:
    """The text before the first of the stop texts."""
    for stop in [stops] if isinstance(stops, str) else list(stops or []):
        text = text.split(stop, maxsplit=1)[0] if stop else text
    return text


def run_harness(evaluator: Evaluator, names: Sequence[str], *, max_length: int, progress: Progress) -> dict[str, Any]:
    """The harness's own results, with samples, of tasks by name or by the path of a .yaml file, for the model in use.

    Raises:
        UsageError: there is no such task, or its data can't be had.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    files = [Path(name) for name in names if name.endswith((".yaml", ".yml"))]
    folders = sorted({str(file.resolve().parent) for file in files})
    # The harness reads thousands of its own files to know its tasks; not where all tasks come as files.
    manager = TaskManager(include_path=folders or None, include_defaults=len(files) < len(names))
    known = [_task_of(name) for name in names]
    if missing := [name for name in known if name not in manager.all_tasks]:
        raise UsageError(f"--task lm_eval:{missing[0]}: lm_eval has no such task.", "`lm-eval ls tasks` lists them.")
    model = HarnessModel(evaluator, max_length=max_length, progress=progress)
    try:
        found: dict[str, Any] = simple_evaluate(
            model=model, tasks=known, task_manager=manager, bootstrap_iters=0, log_samples=True
        )
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"--task lm_eval:{','.join(known)}: lm_eval can't run it: {type(error).__name__}: {reason}",
            "Check that its data can be reached; a .yaml task of your own may name local files.",
        ) from error
    return found


def _task_of(name: str) -> str:
    """The name itself, or the one that a task's file gives."""
    if not name.endswith((".yaml", ".yml")):
        return name
    found = re.search(r"^task:\s*[\"']?([\w.-]+)", Path(name).read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise UsageError(f"--task lm_eval:{name}: the file names no task.", "Begin it with `task: NAME`.")
    return found[1]
