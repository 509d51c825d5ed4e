"""Messages as one text, by chat template or a plain fallback, and where in it the answers stand.

Characters only; tokens are `ntkcli.data.encoding`'s.

The plain fallback, for a tokenizer without a template, is "{prompt}\\n{completion}{eos}": the turns joined by
line feeds, the end-of-text token after every assistant turn, and the begin-of-text token in front where the
tokenizer itself puts one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ntkcli.data.rows import Message, RowError
from ntkcli.errors import UsageError
from store import RowStatus

PLAIN: Final = "plain fallback 1"  # its name in the spec; a change of its bytes takes the next number

# Llama 3 and others write today's date into the system turn, so a run resumed at midnight would end in other
# bytes than one that never stopped. Every row gets the date that Llama's template falls back to.
_DATE: Final = "26 Jul 2024"
_PINNED_CLOCK: Final = "{% macro strftime_now(format) %}" + _DATE + "{% endmacro %}"

_THINKING: Final = "enable_thinking"  # the variable by which templates write an empty thought, or leave one to come
_REASON_CHARACTERS: Final = 200  # of a template's own error


@dataclass(frozen=True, slots=True)
class Span:
    """An answer in a text: characters [start, stop), with the end of turn, and the `content` within."""

    start: int
    stop: int
    content: str


class Renderer:
    """Renders messages with the template of `tokenizer`, the same on every day and for every caller."""

    def __init__(self, tokenizer: Any, *, thinking: bool | None = None) -> None:
        self._tokenizer = tokenizer
        self.template: str | None = _template(tokenizer)
        if thinking is not None and _THINKING not in (self.template or ""):
            raise UsageError(
                f"--thinking: the model's chat template has no switch {_THINKING!r}.", "Leave the option out."
            )
        self._switches = {} if thinking is None else {_THINKING: thinking}
        self._end_of_text: str = tokenizer.eos_token or ""
        special = sorted(special_tokens(tokenizer), key=len, reverse=True)
        either = "|".join(map(re.escape, special)) or r"(?!)"  # a tokenizer without special tokens: matches nowhere
        self._special = re.compile(either)
        self._end_of_turn = re.compile(rf"\s*(?:{either})")

    def text(self, messages: Sequence[Message], *, generation: bool = False, switched: bool = True) -> str:
        """The text; with `generation`, up to where the assistant's next turn begins. RowError if refused.

        Not `switched`: with the template's own default for thinking.
        """
        if self.template is None:
            return self._plain(messages, generation=generation)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=generation,
                    date_string=_DATE,
                    **(self._switches if switched else {}),
                )
            )
        except Exception as error:  # templates are foreign code: in the sandbox they may raise anything
            reason = " ".join(str(error).split())[:_REASON_CHARACTERS] or type(error).__name__
            raise RowError(f"the chat template refuses it: {reason}", RowStatus.UNMASKED) from error

    def check_content(self, messages: Sequence[Message]) -> None:
        """RowError if a text holds a special token: it would be read as one, and could forge a turn."""
        for message in messages:
            if found := self._special.search(message.content):
                raise RowError(
                    f"the {message.role}'s text holds {found[0]!r}, a special token of the model",
                    RowStatus.UNMASKED,
                )

    def head(self, messages: Sequence[Message], turn: int) -> str:
        """The text before `messages[turn]`, up to where the model would begin to write that turn."""
        return self.text(messages[:turn], generation=True)

    def answer(self, messages: Sequence[Message], turn: int, whole: str, *, head: str) -> Span:
        """Where the answer `messages[turn]` stands in `whole`, the rendered messages. RowError if unsure.

        It starts where `head` ends, which must be how `whole` begins. It ends with the special token behind
        its content, so that a model learns to stop and choices compare as whole answers; the line feed that
        ChatML puts behind that is left out. A template without such a token has the answer end where the turn
        ends.
        """
        content = messages[turn].content.strip()
        if self._switches and turn < len(messages) - 1 and not whole.startswith(head):
            # Templates take thoughts out of earlier turns, so their answers stand where no thought was written.
            head = self.text(messages[:turn], generation=True, switched=False)
        if not whole.startswith(head):
            raise RowError(
                f"the chat template changes the turns before turn {turn + 1} once its answer is there",
                RowStatus.UNMASKED,
            )
        turn_end = self._turn_end(messages, turn, whole)
        at = whole.find(content, len(head), turn_end)
        if at < 0:
            raise RowError(f"the rendered text lacks the answer of turn {turn + 1}", RowStatus.UNMASKED)
        if turn_end is None and self._special.search(whole, len(head), at):  # found in a later turn only
            raise RowError(f"the rendered text lacks the answer of turn {turn + 1}", RowStatus.UNMASKED)
        while at >= 0:
            end = self._end_of_turn.match(whole, at + len(content))
            if end is not None and (turn_end is None or end.end() <= turn_end):
                return Span(len(head), end.end(), content)
            at = whole.find(content, at + 1, turn_end)
        if turn_end is None:
            raise RowError(f"the end of turn {turn + 1} can't be found", RowStatus.UNMASKED)
        return Span(len(head), turn_end, content)

    def _turn_end(self, messages: Sequence[Message], turn: int, whole: str) -> int | None:
        """Where the text up to this turn ends; None if a template treats the last turn in another way."""
        if turn == len(messages) - 1:
            return len(whole)
        text = self.text(messages[: turn + 1])
        return len(text) if whole.startswith(text) else None

    def _plain(self, messages: Sequence[Message], *, generation: bool) -> str:
        turns = [message.content + (self._end_of_text if message.role == "assistant" else "") for message in messages]
        return "\n".join([*turns, ""] if generation else turns)


def special_tokens(tokenizer: Any) -> set[str]:
    """The texts that the tokenizer reads as special tokens."""
    return {token.content for token in tokenizer.backend_tokenizer.get_added_tokens_decoder().values() if token.special}


def _template(tokenizer: Any) -> str | None:
    if tokenizer.chat_template is None:
        return None
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError as error:  # several named templates and no default among them
        raise UsageError(f"the tokenizer's chat template can't be used: {error}") from error
    return _PINNED_CLOCK + template if "strftime_now" in template else template
