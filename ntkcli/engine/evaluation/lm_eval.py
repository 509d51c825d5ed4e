"""The model as lm-evaluation-harness wants one: its requests are computed by the engine of `ntksel eval`.

The harness prepares tasks and makes metrics of the answers; likelihoods share the prompt of a question's choices and
come from the model with the adapter in use. Needs the package lm_eval.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs

from ntkcli.data.encoding import Encoded
from ntkcli.engine.evaluation.evaluator import Evaluator
from ntkcli.engine.models.environment import stop_tokens
from ntkcli.errors import UsageError
from ntkcli.progress import Progress

DEFAULT_NEW_TOKENS = 256
"""Of an answer whose task names no length, as HFLM has it."""
ANSWERS_AT_ONCE = 64
"""Requests between two lines of progress."""
GREEDY_KEYS = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p"})
"""Generation settings that are honoured, or change nothing where the likeliest token is taken."""
NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "use_cache": True}
"""Settings that change nothing at this value."""
Request = tuple[tuple[str, str], list[int], list[int]]


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """lm-evaluation-harness's interface around an `Evaluator`; the harness's own class tokenises pairs of texts.

    `truncated` collects (task, document) of the requests that lost the beginning of their prompt. `failure` is what
    the engine raised, so that a caller can tell it from what a task's own code raised.
    """

    def __init__(
        self, evaluator: Evaluator, *, max_length: int, progress: Progress, thinking: bool | None = None
    ) -> None:
        super().__init__()
        self._evaluator, self._max_length, self._progress = evaluator, max_length, progress
        self._thinking = thinking
        self.tokenizer = evaluator.loaded.tokenizer
        self.truncated: set[tuple[str, int]] = set()
        self.failure: BaseException | None = None

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
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as one text, by the tokenizer's template; without a system turn where the template refuses it."""
        try:
            return self._render(chat_history, add_generation_prompt)
        except TemplateError:
            turns = [turn for turn in chat_history if turn["role"] != "system"]
            return self._render(turns, add_generation_prompt)

    def _render(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        known = {} if self._thinking is None else {"enable_thinking": self._thinking}
        return str(
            self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **known,
            )
        )

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As the harness has it, and notes whose prompts are cut."""
        del disable_tqdm
        with self._engine():
            encoded: list[Request] = []
            for request in requests:
                context, continuation = request.args
                if context == "":
                    pair = self._from_start(self.tok_encode(continuation, add_special_tokens=False))
                elif not (pair := self._encode_pair(context, continuation))[0]:  # white space goes to the answer
                    pair = self._from_start(pair[1])
                self._require_room(request, pair)
                encoded.append(((context, continuation), *pair))
            return self._loglikelihood_tokens(encoded)

    def _from_start(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """A text without a context comes after the first token, which counts as the context if it has it itself."""
        prefix = self.prefix_token_id
        return (ids[:1], ids[1:]) if ids[:1] == [prefix] else ([prefix], ids)

    def _require_room(self, request: Any, pair: tuple[list[int], list[int]]) -> None:
        context, continuation = pair
        where = f"the task {request.task_name}, document {request.doc_id}"
        if not continuation:
            raise UsageError(f"{where}: an answer has no tokens of its own.", "Fix its doc_to_choice or doc_to_target.")
        if len(continuation) > self._max_length:
            raise UsageError(
                f"{where}: an answer of {len(continuation)} tokens is longer than --max-length {self._max_length}.",
                f"Give --max-length {len(continuation)} or more.",
            )
        if len(context) + len(continuation) > self._max_length + 1:
            self.truncated.add((str(request.task_name), int(request.doc_id)))

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
        with self._engine():
            pairs: list[Request] = []
            counts = []
            for request in requests:
                (text,) = request.args
                windows = utils.get_rolling_token_windows(
                    token_list=self.tok_encode(text),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self._max_length,
                    context_len=1,
                )
                own: list[Request] = [(("", ""), *utils.make_disjoint_window(window)) for window in windows]
                pairs += own
                counts.append(len(own))
            values = np.array([value for value, _ in self._loglikelihood_tokens(pairs)])
            ends = np.cumsum(counts)
            return [float(values[end - count : end].sum()) for end, count in zip(ends, counts, strict=True)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers up to the first of each request's stop texts. UsageError for a task that wants others."""
        del disable_tqdm
        with self._engine():
            texts = [""] * len(requests)
            groups: dict[int, list[int]] = {}
            stops: list[list[str]] = []
            for i, request in enumerate(requests):
                wanted = normalize_gen_kwargs(request.args[1], DEFAULT_NEW_TOKENS)
                self._require_greedy(request, wanted)
                groups.setdefault(wanted["max_gen_toks"], []).append(i)
                stops.append(wanted["until"])
            stop_ids = stop_tokens(self._evaluator.loaded, None)
            self._progress.start("answers", total=len(requests), unit="requests")
            for new_tokens, members in groups.items():
                for start in range(0, len(members), ANSWERS_AT_ONCE):
                    chunk = members[start : start + ANSWERS_AT_ONCE]
                    prompts = [self._prompt(requests[i], new_tokens) for i in chunk]
                    found = self._evaluator.continuations(prompts, stop_ids=stop_ids, max_new_tokens=new_tokens)
                    for i, text in zip(chunk, found, strict=True):
                        texts[i] = _until(text, stops[i])
                    self._progress.advance(len(chunk), tokens=sum(map(len, prompts)))
            self._progress.stop()
            return texts

    def _require_greedy(self, request: Any, wanted: dict[str, Any]) -> None:
        other = {
            key: value
            for key, value in wanted.items()
            if value is not None and key not in GREEDY_KEYS and NEUTRAL.get(key, ...) != value
        }
        if wanted["do_sample"] and wanted.get("temperature", 1.0):
            other["do_sample"] = True
        if other:
            named = ", ".join(f"{key}: {value}" for key, value in sorted(other.items()))
            raise UsageError(
                f"the task {request.task_name} wants answers written with {named}, and `ntksel eval` writes greedy "
                "ones.",
                "Leave the task out, or change the generation_kwargs of its file.",
            )
        if wanted["max_gen_toks"] >= self._max_length:
            raise UsageError(
                f"the task {request.task_name} wants answers of up to {wanted['max_gen_toks']} tokens, which leaves no "
                f"room for a prompt in --max-length {self._max_length}.",
                "Give a larger --max-length.",
            )

    def _prompt(self, request: Any, new_tokens: int) -> Encoded:
        """The context's last tokens, so that the answer has room as well."""
        whole = self.tok_encode(request.args[0]) or [self.prefix_token_id]
        kept = whole[-(self._max_length - new_tokens) :]
        if len(kept) < len(whole):
            self.truncated.add((str(request.task_name), int(request.doc_id)))
        ids = np.array(kept, dtype=np.int32)
        return Encoded(ids, np.zeros(len(ids), dtype=np.bool_), truncated=len(kept) < len(whole))

    @contextlib.contextmanager
    def _engine(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.failure = error
            raise


def _until(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop texts."""
    for stop in stops:
        text = text.split(stop, maxsplit=1)[0] if stop else text
    return text
