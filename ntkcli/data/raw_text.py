"""Plain texts as tokens, without a chat template: a document as the tokenizer encodes it, and its end-of-text token.

Must not know files, models or torch. `ntkcli.data.encoding` decides when a row is read so.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ntkcli.choices import TextAs, checked
from ntkcli.data.rows import Row, RowError
from ntkcli.errors import DataError, UsageError
from store import RowStatus

CHAT, RAW = TextAs.CHAT, TextAs.RAW
SCHEMA: Final = "text"
"""The schema whose rows are plain texts."""

Ids = npt.NDArray[np.int32]


def check_text_as(text_as: str, thinking: bool | None = None) -> None:
    """UsageError for a value that is not known, and for a setting of the chat template next to `raw`."""
    checked(TextAs, text_as, "--text-as")
    if text_as == RAW and thinking is not None:
        raise UsageError(
            "--thinking is a setting of the chat template, which --text-as raw does not use.", "Leave one of them out."
        )


def refuse_other_schema(schema: str, text_as: str, what: str) -> None:
    """DataError if texts are to be raw and rows of another schema than `text` are given; `what` names their file."""
    if text_as == RAW and schema != SCHEMA:
        raise DataError(
            f"{what}: --text-as raw is for rows of schema text, and these are {schema}.",
            "Leave --text-as out, or give rows with the one column text (--columns text=COLUMN).",
        )


class RawText:
    """Encodes documents with a fast tokenizer (`backend`, its own copy): begin of text as it does, end of text always.

    `bos_id`: the begin-of-text token, if the tokenizer puts one in front of a plain text.

    UsageError if the tokenizer has no end-of-text token.
    """

    def __init__(self, tokenizer: Any, backend: Any, *, bos_id: int | None) -> None:
        eos = None if tokenizer.eos_token is None else backend.token_to_id(tokenizer.eos_token)
        if eos is None:
            raise UsageError(
                "--text-as raw: the model's tokenizer has no end-of-text token, with which documents end.",
                "Set eos_token in its tokenizer_config.json, or leave --text-as out.",
            )
        self._eos_id: int = eos
        self._head = [] if bos_id is None else [bos_id]

    def text(self, row: Row) -> str:
        """The row's text, to be tokenised with the tokenizer's own special tokens. RowError if it is no text."""
        if len(row.messages) != 1 or row.messages[0].role != "user" or row.choices or row.tools:
            raise RowError("it is not of schema text, which --text-as raw is for", RowStatus.UNMASKED)
        return row.messages[0].content

    def closed(self, ids: list[int]) -> Ids:
        """All tokens of a document, of its text's. RowError if it has none."""
        if ids[-1:] != [self._eos_id]:
            ids = [*ids, self._eos_id]
        if len(ids) - len(self._head) < 2:
            raise RowError("its text has no tokens: nothing to predict", RowStatus.EMPTY)
        return np.array(ids, dtype=np.int32)

    def pieces(self, ids: Ids, max_length: int) -> list[Ids]:
        """The document in pieces of at most `max_length` tokens, each token of it to predict in exactly one of them.

        A piece begins with the begin-of-text token; where the tokenizer puts none, with the last token of the piece
        before, from which its first new token is predicted. The last piece may be short: nothing is left out.
        """
        if len(ids) <= max_length:
            return [ids]
        step = max_length - 1
        starts = range(1, len(ids), step)
        head = np.array(self._head, dtype=np.int32)
        return [
            np.concatenate([head if len(head) else ids[start - 1 : start], ids[start : start + step]])
            for start in starts
        ]
