"""Rows as tokens with a supervised mask: the one encoder of featurize, finetune and eval.

A mask is verified by decoding it; a row where that fails is refused, never used with a wrong mask. Must not
know files, models or torch. Read `Encoder` first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ntkcli.data.answers import find_answer
from ntkcli.data.masking import Draft, tokens_and_mask
from ntkcli.data.raw_text import CHAT, RAW, Ids, RawText, check_text_as
from ntkcli.data.rendering import PLAIN, Renderer
from ntkcli.data.rows import Message, Row, RowError
from ntkcli.data.turns import shortened
from ntkcli.errors import UsageError
from store import RowStatus, fingerprint

VERSION: Final = 2  # of the encoding; goes up when the same row gets other tokens or another mask

_SHORTEST: Final = 3  # begin of text, one token to predict from, one to predict

Kept = tuple[int, ...]
"""Positions of the turns that stay of a conversation, ascending."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """`ids` (T,) int32, and `supervised` (T,) bool: the tokens of the answers with their ends of turn.

    `truncated`: the row was too long; `dropped_turns` of it were left out whole.
    """

    ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    truncated: bool
    dropped_turns: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class Encoder:
    """Encodes rows with a fast tokenizer of transformers: the result depends on the row and on `spec` only.

    The text is the tokenizer's chat template, or the plain fallback of `ntkcli.data.rendering`. A row is
    refused (RowError) when its texts hold a special token of the model, which could forge a turn; when the
    template refuses it, or leaves out what the row has; when the answer can't be found, or decoding the mask doesn't
    give it back; and when there is nothing to predict.

    A row longer than `max_length` tokens loses whole turns (`ntkcli.data.turns`): the oldest exchanges first, never
    the system turn, and is rendered again without them. Where one exchange is too long by itself, tokens are cut
    from the left of its prompt, so that the answer stays; the begin-of-text token is kept. Only an answer too long
    by itself is cut on its right, behind the last token of its prompt.

    `thinking` switches templates that know it (`enable_thinking`, as Qwen 3's) on or off; None leaves it to the
    template. `text_as` raw: `encode` and `encode_pieces` take rows of schema text alone, as plain documents
    (`ntkcli.data.raw_text`), all tokens supervised that something predicts; a document that is too long keeps its
    first tokens. UsageError if the tokenizer or an argument can't be used.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, thinking: bool | None = None, text_as: str = CHAT) -> None:
        check_text_as(text_as, thinking)
        if max_length < _SHORTEST:
            raise UsageError(f"--max-length {max_length} is too short.", f"Give {_SHORTEST} or more.")
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise UsageError(
                f"the tokenizer {type(tokenizer).__name__} doesn't report where its tokens are in the text, "
                "so answers can't be masked.",
                "Give a model with a tokenizer.json.",
            )
        self.max_length = max_length
        self._renderer = Renderer(tokenizer, thinking=thinking)
        # A copy of our own: padding, truncation and threads elsewhere can't change what it returns.
        self._backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._n_tokens: int = self._backend.get_vocab_size(with_added_tokens=True)
        self._rows: int | None = getattr(tokenizer, "embedding_rows", None)  # of a model with fewer than it has tokens
        self._bos_id: int | None = (
            None if tokenizer.bos_token is None else self._backend.token_to_id(tokenizer.bos_token)
        )
        # A template writes the begin-of-text token itself; with the plain fallback we do, if the tokenizer
        # would.
        adds_bos = self._bos_id is not None and self._backend.encode("a").ids[:1] == [self._bos_id]
        self._prepend_bos = adds_bos and self._renderer.template is None
        bos_id = self._bos_id if adds_bos else None
        self._raw = RawText(tokenizer, self._backend, bos_id=bos_id) if text_as == RAW else None
        self.spec: dict[str, Any] = {
            "tokenizer": fingerprint(
                {"backend": self._backend.to_str(), "bos": tokenizer.bos_token, "eos": tokenizer.eos_token}
            ),
            "template": fingerprint({"template": self._renderer.template or PLAIN}),
            "max_length": max_length,
            "version": VERSION,
        }
        if thinking is not None:
            self.spec["thinking"] = thinking
        if text_as != CHAT:
            self.spec["text_as"] = text_as

    def encode(self, row: Row) -> Encoded:
        """The row's tokens, every assistant turn behind its context, and not marked otherwise, supervised.

        A row that comes as tokens is taken as it is. RowError, with reason and status, if the row is refused.
        """
        return self.fit(row, self.whole(row))

    def encode_pieces(self, row: Row) -> list[Encoded]:
        """The row as training examples: itself, or a raw document in pieces, so that nothing of it is cut off."""
        return self.fit_pieces(row, self.whole(row))

    def whole(self, row: Row) -> Encoded:
        """As `encode`, before any cut. RowError if the row is refused."""
        drafted = self.draft(row)
        return drafted if isinstance(drafted, Encoded) else self.finish(drafted, self._encoding(drafted.text))

    def draft(self, row: Row) -> Draft | Encoded:
        """The row as text, to be tokenised; as tokens, if that is how it comes. RowError if the row is refused."""
        if self._raw is not None:
            self._renderer.check_content(row.messages)
            return Draft(self._raw.text(row))
        if row.tokens:
            return self._given(row)
        self._renderer.check_content(row.messages, row.tools)
        return self._draft(row.messages, self._heads(row, range(len(row.messages))), row.tools)

    def tokenise(self, drafts: Sequence[Draft]) -> list[Any]:
        """What `finish` takes of each draft: on all cores, and without Python's lock, so that other threads go on."""
        texts = [draft.text for draft in drafts]
        found: list[Any] = self._backend.encode_batch(texts, add_special_tokens=self._raw is not None)
        return found

    def finish(self, draft: Draft, encoding: Any) -> Encoded:
        """The tokens of a draft. RowError if the row is refused."""
        if self._raw is not None:
            ids = self._raw.closed(encoding.ids)
            self._check(ids)
            return _document(ids)
        return self._finish(draft, encoding)

    def fit(self, row: Row, whole: Encoded) -> Encoded:
        """The row cut to `max_length`; `whole` are its tokens before any cut. RowError if it is refused."""
        if self._raw is not None:
            return _document(whole.ids[: self.max_length], truncated=len(whole) > self.max_length)
        if row.tokens:
            return self._fit_given(whole)
        if len(whole) <= self.max_length:
            return self._checked([whole])[0]

        def encoded(kept: Kept) -> list[Encoded]:
            messages = [row.messages[i] for i in kept]
            return [self._tokens(messages, self._heads(row, kept), row.tools)]

        return self._fit(row.messages, self._learned(row), encoded, first=[whole])[0]

    def fit_pieces(self, row: Row, whole: Encoded) -> list[Encoded]:
        """As `encode_pieces`; `whole` are the row's tokens before any cut."""
        if self._raw is None:
            return [self.fit(row, whole)]
        return [_document(ids) for ids in self._raw.pieces(whole.ids, self.max_length)]

    def encode_choices(self, row: Row) -> list[Encoded]:
        """One for each choice: the row with it as the last assistant turn, which alone is supervised.

        The end of turn counts as part of an answer: without it "Copyleft" would always beat "Copyleft
        Limited", whose prefix it is. All choices keep the same prompt tokens, so that their likelihoods
        compare.
        """
        if not row.choices or row.messages[-1].role != "assistant":
            raise ValueError(f"row {row.row_id!r} has no choices")
        last = row.messages[-1]
        for choice in row.choices:
            self._renderer.check_content((*row.messages[:-1], replace(last, content=choice)), row.tools)

        def encoded(kept: Kept) -> list[Encoded]:
            before = [row.messages[i] for i in kept[:-1]]
            head = self._renderer.head([*before, last], len(before), tools=row.tools)
            return [
                self._tokens([*before, replace(last, content=choice)], {len(before): head}, row.tools)
                for choice in row.choices
            ]

        return self._fit(row.messages, [len(row.messages) - 1], encoded)

    def encode_prompt(self, row: Row) -> Encoded:
        """The row up to where the model would write its last assistant turn; nothing supervised.

        A prompt that is too long is cut as a row is (`encode`); one of a single exchange loses its beginning. RowError
        if the row is refused, or has no last assistant turn to compare with.
        """
        if not row.messages or row.messages[-1].role != "assistant":
            raise RowError("it has no answer to compare with", RowStatus.EMPTY)
        if not row.messages[-1].content:
            raise RowError("its last answer calls tools: there is no text to compare with", RowStatus.EMPTY)
        if not row.messages[-1].learned:
            raise RowError("its last answer is marked as not to be learned", RowStatus.EMPTY)
        self._renderer.check_content(row.messages[:-1], row.tools)

        def encoded(kept: Kept) -> list[Encoded]:
            messages = [row.messages[i] for i in kept]
            return [self._prompt(self._renderer.head(messages, len(messages) - 1, tools=row.tools))]

        return self._fit(row.messages, [len(row.messages) - 1], encoded, self._cut_prompt)[0]

    @property
    def form(self) -> str:
        """What becomes of a thought that the template opens where an answer begins, in words; mostly ""."""
        return self._renderer.form if self._raw is None else ""

    def end_of_turn(self, row: Row) -> int | None:
        """The special token that ends the row's last answer as it is encoded, or None. RowError if it is refused."""
        encoded = self.encode(row)
        last = np.flatnonzero(encoded.supervised)
        if not last.size:
            return None
        token = int(encoded.ids[last[-1]])
        added = self._backend.get_added_tokens_decoder().get(token)
        return token if added is not None and added.special else None

    def _learned(self, row: Row) -> list[int]:
        """Positions of the turns that are supervised."""
        return [
            turn
            for turn, message in enumerate(row.messages)
            if message.role == "assistant" and turn >= row.context and message.learned
        ]

    def _heads(self, row: Row, kept: Sequence[int]) -> dict[int, str]:
        """Of the turns that stay, those to learn by their place, each with the text before it."""
        messages = [row.messages[i] for i in kept]
        turns = [kept.index(turn) for turn in self._learned(row) if turn in kept]
        return {turn: self._renderer.head(messages, turn, tools=row.tools) for turn in turns}

    def _encoding(self, text: str) -> Any:
        """What the tokenizer makes of one text."""
        return self._backend.encode(text, add_special_tokens=self._raw is not None)

    def _prompt(self, text: str) -> Encoded:
        """The tokens of a text, none of them supervised."""
        ids = np.array(self._backend.encode(text, add_special_tokens=False).ids, dtype=np.int32)
        if self._prepend_bos:
            ids = np.concatenate([np.array([self._bos_id], dtype=np.int32), ids])
        if not len(ids):
            raise RowError("its prompt has no tokens: nothing to predict from", RowStatus.EMPTY)
        return Encoded(ids, np.zeros(len(ids), dtype=np.bool_), truncated=False)

    def _tokens(self, messages: Sequence[Message], heads: Mapping[int, str], tools: str) -> Encoded:
        """The whole row, with the answers of the turns in `heads` supervised and verified."""
        draft = self._draft(messages, heads, tools)
        return self._finish(draft, self._backend.encode(draft.text, add_special_tokens=False))

    def _draft(self, messages: Sequence[Message], heads: Mapping[int, str], tools: str) -> Draft:
        text = self._renderer.text(messages, tools=tools)
        self._renderer.check_results(messages, text)
        return Draft(
            text,
            tuple(
                find_answer(self._renderer, messages, turn, text, head=head, tools=tools)
                for turn, head in heads.items()
            ),
        )

    def _finish(self, draft: Draft, encoding: Any) -> Encoded:
        ids, supervised = tokens_and_mask(self._backend, encoding, draft.spans)
        if self._prepend_bos:
            ids = np.concatenate([np.array([self._bos_id], dtype=np.int32), ids])
            supervised = np.concatenate([np.zeros(1, dtype=np.bool_), supervised])
        if len(ids) < 2:
            raise RowError(f"it has {len(ids)} tokens: nothing to predict", RowStatus.EMPTY)
        return Encoded(ids, supervised, truncated=False)

    def _given(self, row: Row) -> Encoded:
        """A row of token ids with its labels; nothing predicts the first token, so it is never supervised."""
        ids = np.array(row.tokens, dtype=np.int64)
        if not ((ids >= 0) & (ids < self._n_tokens)).all():
            worst = int(ids[(ids < 0) | (ids >= self._n_tokens)][0])
            raise RowError(f"the token {worst} is none of the tokenizer's {self._n_tokens}")
        supervised = np.array(row.labels, dtype=np.int64) == ids
        supervised[0] = False
        return Encoded(ids.astype(np.int32), supervised, truncated=False)

    def _checked(self, rows: list[Encoded]) -> list[Encoded]:
        """The rows; RowError for a token that the model has no embedding for."""
        for row in rows:
            self._check(row.ids)
        return rows

    def _check(self, ids: npt.NDArray[np.int32]) -> None:
        """RowError for a token that the model has no embedding for."""
        if self._rows is None or not len(ids) or int(ids.max()) < self._rows:
            return
        worst = int(ids.max())
        raise RowError(
            f"its token {self._backend.id_to_token(worst)!r} is number {worst}, and the model has embeddings for "
            f"{self._rows}: tokenizer and weights are of two models, or the model was not resized"
        )

    def _fit(
        self,
        messages: Sequence[Message],
        learned: Sequence[int],
        encoded: Callable[[Kept], list[Encoded]],
        cut: Callable[[Sequence[Encoded]], list[Encoded]] | None = None,
        first: list[Encoded] | None = None,
    ) -> list[Encoded]:
        """What `encoded` makes of the most turns with which all of it fits; of the fewest, `cut`, if nothing fits.

        `first` is what it makes of all turns, where that is known.
        """
        views = shortened(messages, learned)
        made: dict[int, list[Encoded]] = {}

        def fits(number: int) -> bool:
            made[number] = first if number == 0 and first is not None else encoded(views[number])
            return max(map(len, made[number])) <= self.max_length

        if fits(0):
            return self._checked(made[0])
        number = bisect_left(range(1, len(views)), True, key=fits) + 1  # each view is about as long or shorter
        if number in made:
            found = made[number]
        else:  # none fits
            number = len(views) - 1
            found = (cut or self._cut_alike)(made.get(number) or encoded(views[number]))
        dropped = len(messages) - len(views[number])
        return self._checked([replace(one, truncated=True, dropped_turns=dropped) for one in found])

    def _fit_given(self, row: Encoded) -> Encoded:
        """A row of token ids, cut where it is too long: answers are its runs of supervised tokens.

        What follows the last answer goes first, then the oldest prompts with their answers.
        """
        self._check(row.ids)
        if len(row) <= self.max_length:
            return row
        ends = np.flatnonzero(row.supervised & ~np.append(row.supervised[1:], False)) + 1
        if not len(ends):
            return self._cut_alike([row])[0]
        keep = self._kept_at_start(row)
        starts = [keep, *(int(end) for end in ends[:-1] if end >= keep)]
        whole = [start for start in starts if keep + int(ends[-1]) - start <= self.max_length]
        start = min(whole, default=starts[-1])
        shorter = _cut(row, keep, start, int(ends[-1]))
        dropped = 2 * starts.index(start)  # prompts and answers
        return replace(self._cut_alike([shorter])[0], truncated=True, dropped_turns=dropped)

    def _cut_alike(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        """All of them cut to `max_length` tokens at the same place of their common prompt.

        The prompt loses its beginning, but for the begin-of-text token; an answer that is too long by itself loses its
        end. Of a row without answers the beginning stays.
        """
        longest = max(len(one) for one in encoded)
        if longest <= self.max_length:
            return list(encoded)
        keep = self._kept_at_start(encoded[0])
        room = self.max_length - keep
        # Not behind the token that predicts the first supervised one. A row without any keeps its beginning.
        latest = min(int(np.argmax(one.supervised)) for one in encoded) - 1
        start = max(keep, min(longest - room, latest))
        return [_cut(one, keep, start, start + room) for one in encoded]

    def _cut_prompt(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        """A prompt by itself without its beginning, but with the begin-of-text token."""
        (whole,) = encoded
        keep = self._kept_at_start(whole)
        return [_cut(whole, keep, len(whole) - (self.max_length - keep), len(whole))]

    def _kept_at_start(self, row: Encoded) -> int:
        """How many tokens at the start stay whatever is cut: the begin-of-text token."""
        return int(row.ids[0] == self._bos_id)


def _cut(encoded: Encoded, keep: int, start: int, stop: int) -> Encoded:
    """The first `keep` tokens, then those in [start, stop)."""
    ids = np.concatenate([encoded.ids[:keep], encoded.ids[start:stop]])
    supervised = np.concatenate([encoded.supervised[:keep], encoded.supervised[start:stop]])
    return Encoded(ids, supervised, truncated=len(ids) < len(encoded.ids))


def _document(ids: Ids, *, truncated: bool = False) -> Encoded:
    """A plain text: every token is supervised but the first, which nothing predicts."""
    return Encoded(ids, np.arange(len(ids)) > 0, truncated)
