"""Where in a rendered text an answer stands: from where the model would begin to write, to its end of turn.

Nothing is guessed: a place that isn't sure is a RowError. Characters only. Read `find_answer` first.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from ntkcli.data.rendering import Renderer
from ntkcli.data.rows import Message, RowError
from ntkcli.data.templates import begins_with_thought, without_thought
from ntkcli.data.tools import names
from store import RowStatus

_PROBE = "Yes"


@dataclass(frozen=True, slots=True)
class Span:
    """An answer in a text: characters [start, stop), with the end of turn, and the texts that must be in it."""

    start: int
    stop: int
    contents: tuple[str, ...]


def find_answer(
    renderer: Renderer, messages: Sequence[Message], turn: int, whole: str, *, head: str, tools: str = ""
) -> Span:
    """Where the answer `messages[turn]` stands in `whole`, the rendered messages. RowError if unsure.

    It starts where `head` ends, which must be how `whole` begins; where `head` opens a thought that a finished turn
    has none of, before that thought. It ends with the special token behind its content, so that a model learns to
    stop and choices compare as whole answers; the line feed that ChatML puts behind that is left out. A template
    without such a token has the answer end where the turn ends.
    """
    return _Finder(renderer, messages, turn, whole, head, tools).find()


@dataclass(slots=True)
class _Finder:
    renderer: Renderer
    messages: Sequence[Message]
    turn: int
    whole: str
    head: str
    tools: str
    bounded: bool = True
    """Whether the turn surely ends at `stop`; else the text is shared with a rendering that ends here up to `stop`."""
    stop: int = 0
    start: int = 0

    def find(self) -> Span:
        message = self.renderer.shown(self.messages[self.turn])
        content = message.content.strip()
        self.start = self._start()
        self._find_end()
        at = self.start
        if not message.reasoning and begins_with_thought(content):  # `head` may hold the tag that opens it
            at = min(at, *map(len, without_thought(self.head)), at)
        at, contents = self._behind_thought(message, at)
        if message.calls:
            stop = self._end_of_calls(content, names(message.calls), at)
            contents += [*([content] if content else []), *names(message.calls)]
        else:
            at, stop = self._end_of_content(content, at)
            contents.append(content[max(0, self.start - at) :])
        return Span(self.start, stop, tuple(contents))

    def _start(self) -> int:
        """Where the model would begin to write, by the first head that the text begins with."""
        heads = [self.head]
        if self.turn < len(self.messages) - 1 and not self.whole.startswith(self.head):
            # Templates take thoughts out of earlier turns, so their answers stand where no thought was written.
            heads.append(
                self.renderer.text(self.messages[: self.turn], tools=self.tools, generation=True, switched=False)
            )
        heads += [shorter for head in heads for shorter in without_thought(head)]
        for head in heads:
            if self.whole.startswith(head):
                return len(head)
        raise self._refused(f"the chat template changes the turns before turn {self.turn + 1} once its answer is there")

    def _find_end(self) -> None:
        """Where the text up to this turn ends, if the template treats a last turn as it treats others."""
        if self.turn == len(self.messages) - 1:
            self.bounded, self.stop = True, len(self.whole)
            return
        text = self.renderer.upto(self.messages, self.turn, tools=self.tools)
        self.stop = _shared(text, self.whole)
        self.bounded = self.stop == len(text)

    def _behind_thought(self, message: Message, at: int) -> tuple[int, list[str]]:
        thought = message.reasoning.strip()
        if not thought:
            return at, []
        found = self._find(thought, at)
        if found < 0:
            raise self._refused(
                f"the chat template leaves the thought of turn {self.turn + 1} out; take it out, or mark that turn "
                "`weight: 0`"
            )
        return found + len(thought), [thought]

    def _end_of_content(self, content: str, at: int) -> tuple[int, int]:
        """Where the content begins, and where its end of turn ends."""
        at = self._find(content, at)
        if at < 0:
            dropped = ": the chat template takes its thought out" if "</think>" in content else ""
            raise self._refused(f"the rendered text lacks the answer of turn {self.turn + 1}{dropped}")
        limit = self.stop if self.bounded else None
        first = at
        while at >= 0:
            end = self.renderer.end_of_turn.match(self.whole, at + len(content))
            if end is not None and (limit is None or end.end() <= limit):
                return at, end.end()
            at = self._find(content, at + 1)
        if limit is None:
            raise self._refused(f"the end of turn {self.turn + 1} can't be found")
        return first, limit

    def _end_of_calls(self, content: str, called: Sequence[str], at: int) -> int:
        """Where the turn of these calls ends: with what ends a turn of text, else where the text up to it does."""
        for pattern in (re.escape(content), *(rf"(?<!\w){re.escape(name)}(?!\w)" for name in called)):
            found = re.compile(pattern).search(self.whole, at)
            if found is None or self._find(found[0], found.start()) != found.start():
                raise self._refused(f"the rendered text lacks the tool calls of turn {self.turn + 1}")
            at = found.end()
        mark = self._mark()
        if mark and (end := self.whole.find(mark, at, self.stop)) >= 0:
            return end + len(mark)
        if not self.bounded:
            raise self._refused(f"the end of turn {self.turn + 1} can't be found")
        return max(at, len(self.whole[: self.stop].rstrip()))

    def _mark(self) -> str:
        """What ends a turn of text in the place of this one: "" if nothing special does."""
        probe = [*self.messages[: self.turn], Message("assistant", _PROBE)]
        try:
            text = self.renderer.text(probe, tools=self.tools)
        except RowError:
            return ""
        found = self.renderer.special.search(text, text.rfind(_PROBE) + len(_PROBE))
        return found[0] if found else ""

    def _find(self, text: str, at: int) -> int:
        """The text from `at` on within this turn; -1 if it isn't there, or may be a later turn's."""
        found = self.whole.find(text, at, self.stop if self.bounded else None)
        if found < 0 or self.bounded or found + len(text) <= self.stop:
            return found
        return -1 if self.renderer.special.search(self.whole, at, found) else found

    def _refused(self, reason: str) -> RowError:
        return RowError(reason, RowStatus.UNMASKED)


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    shortest = min(len(one), len(other))
    return bisect_left(range(1, shortest + 1), True, key=lambda n: one[:n] != other[:n])
