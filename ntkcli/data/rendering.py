"""Messages as one text, by chat template or a plain fallback.

Characters only: tokens are `ntkcli.data.encoding`'s, where the answers are is found by `ntkcli.data.answers`, and what
a template knows by `ntkcli.data.templates`.

The plain fallback, for a tokenizer without a template, is "{prompt}\\n{completion}{eos}": the turns joined by
line feeds, the end-of-text token after every assistant turn, and the begin-of-text token in front where the
tokenizer itself puts one. It, and templates that know no tool calls, get calls and their results as text.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Any, Final

from ntkcli.data import tools as calls_format
from ntkcli.data.rows import Message, RowError
from ntkcli.data.templates import DATE, REASONING, find_template, without_thought
from ntkcli.data.turn_by_turn import TurnByTurn, marked
from ntkcli.errors import UsageError
from store import RowStatus

PLAIN: Final = "plain fallback 1"  # its name in the spec; a change of its bytes takes the next number

_REASON_CHARACTERS: Final = 200  # of a template's own error
_PLAIN_FIELDS: Final = {"role", "content", "name", "tool_call_id"}  # of a turn; transformers rewrites others
_PROBE: Final = (Message("user", "Hi"), Message("assistant", "Yes"))


class Renderer:
    """Renders messages with the template of `tokenizer`, the same on every day and for every caller.

    `thinking` sets the template's own switch. A template without one that opens a thought where an answer is to be
    written (DeepSeek R1's) knows off as well: heads then end before the thought.
    """

    def __init__(self, tokenizer: Any, *, thinking: bool | None = None) -> None:
        self._tokenizer = tokenizer
        self._known = find_template(tokenizer)
        self.template: str | None = self._known.text
        self._compiled = None if self.template is None else _compiled(tokenizer, self.template)
        self._end_of_text: str = tokenizer.eos_token or ""
        special = sorted(special_tokens(tokenizer), key=len, reverse=True)
        either = "|".join(map(re.escape, special)) or r"(?!)"  # a tokenizer without special tokens: matches nowhere
        self.special = re.compile(either)
        self._begins_special = _common_start(special)  # most texts lack it, and are not searched for each of them
        self.end_of_turn = re.compile(rf"\s*(?:{either})")
        self._switches: dict[str, bool] = {}
        self._cuts_thought = False
        self._by_turn: TurnByTurn | None = None
        self.opens_thought = self._opens_thought()
        if thinking is not None:
            self._set_thinking(thinking)
        self._by_turn = self._turn_by_turn()

    def _set_thinking(self, thinking: bool) -> None:
        """UsageError if the template can't be told so."""
        if self._known.switch is not None:
            self._switches = {self._known.switch: thinking}
            self.opens_thought = self._opens_thought()
        elif self.opens_thought:
            self._cuts_thought = not thinking
        else:
            raise UsageError(
                "--thinking: the model's chat template has no switch 'enable_thinking' or 'thinking', and opens no "
                "thought.",
                "Leave the option out.",
            )

    @property
    def form(self) -> str:
        """What becomes of a thought that the template opens where an answer begins, in words; "" if it opens none."""
        if not self.opens_thought:
            return ""
        form = "the chat template opens a thought (<think>) before a new answer, and finished answers have none: "
        if self._cuts_thought:
            return f"{form}answers are supervised and generated without it"
        return f"{form}answers are supervised without it, and generated with it (--thinking off: without it)"

    def text(
        self, messages: Sequence[Message], *, tools: str = "", generation: bool = False, switched: bool = True
    ) -> str:
        """The text; with `generation`, up to where the assistant's next turn begins. RowError if refused.

        Not `switched`: with the template's own default for thinking.
        """
        if self.template is None:
            return self._plain(messages, generation=generation)
        if switched and not generation and not tools and (pieces := self._pieces(messages)) is not None:
            return "".join(pieces)
        options: dict[str, Any] = {"add_generation_prompt": generation, **(self._switches if switched else {})}
        if tools:
            options["tools"] = json.loads(tools)
        try:
            return self._render(self._turns(messages), options)
        except Exception as error:  # templates are foreign code: in the sandbox they may raise anything
            if any(message.calls for message in messages):
                with contextlib.suppress(Exception):  # the first error tells more
                    return self._render(self._turns(messages, arguments_as_text=True), options)
            reason = " ".join(str(error).split())[:_REASON_CHARACTERS] or type(error).__name__
            raise RowError(f"the chat template refuses it: {reason}", RowStatus.UNMASKED) from error

    def check_content(self, messages: Sequence[Message], tools: str = "") -> None:
        """RowError if a text holds a special token, which could forge a turn, or the template has no place for it."""
        for message in messages:
            text = message.text
            if self._begins_special in text and (found := self.special.search(text)):
                raise RowError(
                    f"the {message.role}'s text holds {found[0]!r}, a special token of the model",
                    RowStatus.UNMASKED,
                )
            if message.reasoning and not self._known.thoughts:
                raise RowError(
                    "a turn has its thought next to its content (reasoning_content, thinking), which the chat template "
                    "doesn't show; put it into the content as the model writes it, or take it out",
                    RowStatus.UNMASKED,
                )
        if found := self.special.search(tools):
            raise RowError(f"its tools hold {found[0]!r}, a special token of the model", RowStatus.UNMASKED)
        if tools and not self._known.tools:
            raise RowError(
                "it has tools, which the chat template doesn't show; take the column 'tools' out", RowStatus.UNMASKED
            )

    def check_results(self, messages: Sequence[Message], text: str) -> None:
        """RowError if the text, rendered of these messages, lacks what a tool said."""
        for message in messages:
            said = message.content.strip()
            if message.role == "tool" and said not in text and json.dumps(said, ensure_ascii=False)[1:-1] not in text:
                raise RowError("the chat template leaves a tool's result out", RowStatus.UNMASKED)

    def head(self, messages: Sequence[Message], turn: int, *, tools: str = "") -> str:
        """The text before `messages[turn]`, up to where the model would begin to write that turn."""
        pieces = self._pieces(messages) if turn and not tools else None
        if self._by_turn is not None and pieces is not None:
            head = "".join(pieces[:turn]) + self._by_turn.tail
        else:
            head = self.text(messages[:turn], tools=tools, generation=True)
        return next(iter(without_thought(head)), head) if self._cuts_thought else head

    def upto(self, messages: Sequence[Message], turn: int, *, tools: str = "") -> str:
        """The text of the turns up to this one, and no later ones."""
        pieces = None if tools else self._pieces(messages)
        if pieces is None:
            return self.text(messages[: turn + 1], tools=tools)
        return "".join(pieces[: turn + 1]) + pieces[-1]

    def _pieces(self, messages: Sequence[Message]) -> list[str] | None:
        """The text of each turn, and what is behind the last, by one rendering; None where that is not sure."""
        if self._by_turn is None or not messages:
            return None
        key = tuple(messages)
        if (known := self._by_turn.known(key)) is not None:
            return known
        turns = self._turns(messages)
        if len(turns) != len(messages) or not all(map(_is_plain, turns)):
            return None
        return self._by_turn.pieces(key, turns)

    def shown(self, message: Message) -> Message:
        """The message as the template gets it: calls as text where it knows none, a tool's result then as a user's."""
        if self._known.calls:
            return message
        if message.role == "tool":
            return Message("user", message.content)
        if not message.calls:
            return message
        lines = calls_format.as_lines(message.calls)
        return replace(message, content=f"{message.content}\n{lines}" if message.content else lines, calls="")

    def _turns(self, messages: Sequence[Message], *, arguments_as_text: bool = False) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = []
        after_tool = False
        for message in messages:
            shown = self.shown(message)
            if message.role == "tool" and after_tool and shown.role == "user":
                # the results of parallel calls: templates want roles to alternate
                turns[-1]["content"] += f"\n{shown.content}"
            else:
                turns.append(_turn(shown, arguments_as_text=arguments_as_text))
            after_tool = message.role == "tool"
        return turns

    def _render(self, turns: Sequence[dict[str, Any]], options: Mapping[str, Any]) -> str:
        """The turns by the template, as transformers renders them; plain ones without its checks of foreign values."""
        plain = bool(turns) and "tools" not in options and all(map(_is_plain, turns))
        if self._compiled is not None and plain:
            return self._compiled(messages=turns, tools=None, documents=None, date_string=DATE, **options)
        return str(
            self._tokenizer.apply_chat_template(
                turns, chat_template=self.template, tokenize=False, date_string=DATE, **options
            )
        )

    def _turn_by_turn(self) -> TurnByTurn | None:
        """What renders each turn by itself, if the template does."""
        if self._compiled is None or self.template is None:
            return None
        from transformers.utils.chat_template_utils import _compile_jinja_template

        names = self._compiled.keywords
        found = marked(_compile_jinja_template(self.template).environment, self.template, {*names, *self._switches})
        if found is None:
            return None
        made = TurnByTurn(
            partial(found.render, tools=None, documents=None, date_string=DATE, **names, **self._switches)
        )

        def rendered(turns: Sequence[dict[str, Any]], generation: bool) -> str:
            return self._render(turns, {"add_generation_prompt": generation, **self._switches})

        two = [_turn(message, arguments_as_text=False) for message in (*_PROBE, *_PROBE)]
        system = [{"role": "system", "content": "Be good."}, *two]
        return made if made.agrees(rendered, two) and made.agrees(rendered, system, refused=True) else None

    def _plain(self, messages: Sequence[Message], *, generation: bool) -> str:
        turns = [
            turn["content"] + (self._end_of_text if turn["role"] == "assistant" else "")
            for turn in self._turns(messages)
        ]
        return "\n".join([*turns, ""] if generation else turns)

    def _opens_thought(self) -> bool:
        """Whether the template opens a thought for an answer to come that it leaves out of a finished one."""
        try:
            head, whole = self.text(_PROBE[:1], generation=True), self.text(_PROBE)
        except RowError:  # it wants other turns; rows will show
            return False
        return not whole.startswith(head) and any(map(whole.startswith, without_thought(head)))


def _compiled(tokenizer: Any, template: str) -> partial[str] | None:
    """The template as a function that gives what `apply_chat_template` gives of plain turns, at a third of the time.

    None where that is not sure: a tokenizer with a method of its own, or a template that fails. For the rest of the
    time, transformers rebuilds every value that a template sees out of plain types, which ours are already.
    """
    from transformers import PreTrainedTokenizerBase
    from transformers.utils.chat_template_utils import _compile_jinja_template

    own = getattr(type(tokenizer), "apply_chat_template", None)
    if own is not PreTrainedTokenizerBase.apply_chat_template:
        return None
    names = dict(tokenizer.special_tokens_map)
    if not all(type(text) is str for name in names.values() for text in (name if isinstance(name, list) else [name])):
        return None
    try:
        render = partial(_compile_jinja_template(template).render, **names)
        turns = [_turn(message, arguments_as_text=False) for message in _PROBE]
        expected = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, date_string=DATE)
        found = render(messages=turns, tools=None, documents=None, date_string=DATE, add_generation_prompt=False)
    except Exception:  # foreign code: its error is raised where a row needs it
        return None
    return render if found == expected else None


def _is_plain(turn: Mapping[str, Any]) -> bool:
    """Whether a turn is of texts alone, which transformers hands to a template as they are."""
    return turn.keys() <= _PLAIN_FIELDS and all(type(value) is str for value in turn.values())


def _common_start(texts: Sequence[str]) -> str:
    """What all texts begin with; "" for none."""
    pairs = zip(min(texts, default=""), max(texts, default=""), strict=False)
    return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def special_tokens(tokenizer: Any) -> set[str]:
    """The texts that the tokenizer reads as special tokens."""
    return {token.content for token in tokenizer.backend_tokenizer.get_added_tokens_decoder().values() if token.special}


def _turn(message: Message, *, arguments_as_text: bool) -> dict[str, Any]:
    """A message as templates of transformers take it."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        turn |= dict.fromkeys(REASONING, message.reasoning)
    if message.calls:
        turn["tool_calls"] = calls_format.for_template(message.calls, as_text=arguments_as_text)
    if message.name:
        turn["name"] = message.name
    if message.call_id:
        turn["tool_call_id"] = message.call_id
    return turn
