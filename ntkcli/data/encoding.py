"""Rows as tokens with a supervised mask: the one encoder of featurize, finetune and eval.

A mask is verified by decoding it; a row where that fails is refused, never used with a wrong mask. Must not
know files, models or torch. Read `Encoder` first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ntkcli.data.rendering import PLAIN, Renderer, Span
from ntkcli.data.rows import Message, Row, RowError
from ntkcli.errors import UsageError
from store import RowStatus, fingerprint

VERSION: Final = 1  # of the encoding; goes up when the same row gets other tokens or another mask

_SHORTEST: Final = 3  # begin of text, one token to predict from, one to predict


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """`ids` (T,) int32, and `supervised` (T,) bool: the tokens of the answers with their ends of turn."""

    ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    truncated: bool

    def __len__(self) -> int:
        return len(self.ids)


class Encoder:
    """Encodes rows with a fast tokenizer of transformers: the result depends on the row and on `spec` only.

    The text is the tokenizer's chat template, or the plain fallback of `ntkcli.data.rendering`. A row is
    refused (RowError) when its texts hold a special token of the model, which could forge a turn; when the
    template refuses it; when the answer can't be found, or decoding the mask doesn't give it back; and when
    there is nothing to predict. A row longer than `max_length` tokens loses tokens from the left of its
    prompt, so that the answer stays; the begin-of-text token is kept. Only an answer too long by itself is
    cut on its right. `thinking` switches templates that know it (`enable_thinking`, as Qwen 3's) on or off; None
    leaves it to the template. UsageError if the tokenizer or `max_length` can't be used.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, thinking: bool | None = None) -> None:
        if max_length < _SHORTEST:
            raise UsageError(f"--max-length {max_length} is too short.", f"Give {_SHORTEST} or more.")
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise UsageError(
                f"the tokenizer {type(tokenizer).__name__} doesn't say where its tokens stand in the text, "
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

    def encode(self, row: Row) -> Encoded:
        """The row's tokens, every assistant turn behind its context supervised.

        A row that comes as tokens is taken as it is. RowError, with reason and status, if the row is refused.
        """
        if row.tokens:
            return self._fit([self._given(row)])[0]
        self._renderer.check_content(row.messages)
        turns = [i for i, message in enumerate(row.messages) if message.role == "assistant" and i >= row.context]
        heads = {turn: self._renderer.head(row.messages, turn) for turn in turns}
        return self._fit([self._tokens(row.messages, heads)])[0]

    def encode_choices(self, row: Row) -> list[Encoded]:
        """One for each choice: the row with it as the last assistant turn, which alone is supervised.

        The end of turn counts as part of an answer: without it "Copyleft" would always beat "Copyleft
        Limited", whose prefix it is. All choices keep the same prompt tokens, so that their likelihoods
        compare.
        """
        if not row.choices or row.messages[-1].role != "assistant":
            raise ValueError(f"row {row.row_id!r} has no choices")
        last = len(row.messages) - 1
        head = self._renderer.head(row.messages, last)
        encoded = []
        for choice in row.choices:
            messages = (*row.messages[:last], replace(row.messages[last], content=choice))
            self._renderer.check_content(messages)
            encoded.append(self._tokens(messages, {last: head}))
        return self._fit(encoded)

    def encode_prompt(self, row: Row) -> Encoded:
        """The row up to where the model would write its last assistant turn; nothing supervised.

        A prompt longer than `max_length` tokens loses its beginning, the begin-of-text token excepted. RowError if
        the row is refused, or has no last assistant turn.
        """
        if not row.messages or row.messages[-1].role != "assistant":
            raise RowError("it has no answer to compare with", RowStatus.EMPTY)
        self._renderer.check_content(row.messages[:-1])
        text = self._renderer.head(row.messages, len(row.messages) - 1)
        ids = np.array(self._backend.encode(text, add_special_tokens=False).ids, dtype=np.int32)
        if self._prepend_bos:
            ids = np.concatenate([np.array([self._bos_id], dtype=np.int32), ids])
        self._check(ids)
        if not len(ids):
            raise RowError("its prompt has no tokens: nothing to predict from", RowStatus.EMPTY)
        whole = Encoded(ids, np.zeros(len(ids), dtype=np.bool_), truncated=False)
        if len(ids) <= self.max_length:
            return whole
        keep = int(ids[0] == self._bos_id)
        return _cut(whole, keep, len(ids) - (self.max_length - keep), len(ids))

    def end_of_turn(self, row: Row) -> int | None:
        """The special token that ends the row's last answer as it is encoded, or None. RowError if it is refused."""
        encoded = self.encode(row)
        last = np.flatnonzero(encoded.supervised)
        if not last.size:
            return None
        token = int(encoded.ids[last[-1]])
        added = self._backend.get_added_tokens_decoder().get(token)
        return token if added is not None and added.special else None

    def _tokens(self, messages: Sequence[Message], heads: Mapping[int, str]) -> Encoded:
        """The whole row, with the answers of the turns in `heads` supervised and verified."""
        text = self._renderer.text(messages)
        spans = [self._renderer.answer(messages, turn, text, head=head) for turn, head in heads.items()]
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        supervised = np.zeros(len(ids), dtype=np.bool_)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        for span in spans:
            first, stop = self._token_range(offsets, span)
            self._verify(ids[first:stop], span)
            supervised[first:stop] = True
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

    def _check(self, ids: npt.NDArray[np.int32]) -> None:
        """RowError for a token that the model has no embedding for."""
        if self._rows is None or not len(ids) or int(ids.max()) < self._rows:
            return
        worst = int(ids.max())
        raise RowError(
            f"its token {self._backend.id_to_token(worst)!r} is number {worst}, and the model has embeddings for "
            f"{self._rows}: tokenizer and weights are of two models, or the model was not resized"
        )

    def _token_range(self, offsets: npt.NDArray[np.int64], span: Span) -> tuple[int, int]:
        """The tokens [first, stop) that touch the span: one that straddles its start says a part of it."""
        touching = np.flatnonzero((offsets[:, 0] < span.stop) & (offsets[:, 1] > span.start))
        return (int(touching[0]), int(touching[-1]) + 1) if touching.size else (0, 0)

    def _verify(self, ids: npt.NDArray[np.int32], span: Span) -> None:
        decoded = self._backend.decode(ids.tolist(), skip_special_tokens=False)
        if _letters(span.content) not in _letters(decoded):
            raise RowError("decoding the supervised tokens doesn't give the answer back", RowStatus.UNMASKED)

    def _fit(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        """All of them cut to `max_length` tokens at the same place of their common prompt."""
        for one in encoded:
            self._check(one.ids)
        longest = max(len(one) for one in encoded)
        if longest <= self.max_length:
            return list(encoded)
        keep = int(encoded[0].ids[0] == self._bos_id)  # tokens at the start that stay
        room = self.max_length - keep
        # Not behind the token that predicts the first supervised one. A row without any keeps its beginning.
        latest = min(int(np.argmax(one.supervised)) for one in encoded) - 1
        start = max(keep, min(longest - room, latest))
        return [_cut(one, keep, start, start + room) for one in encoded]


def _cut(encoded: Encoded, keep: int, start: int, stop: int) -> Encoded:
    """The first `keep` tokens, then those in [start, stop)."""
    ids = np.concatenate([encoded.ids[:keep], encoded.ids[start:stop]])
    supervised = np.concatenate([encoded.supervised[:keep], encoded.supervised[start:stop]])
    return Encoded(ids, supervised, truncated=len(ids) < len(encoded.ids))


def _letters(text: str) -> str:
    """The text without white space, in one Unicode form: tokenizers may trim and normalise."""
    return "".join(unicodedata.normalize("NFKC", text).split())
