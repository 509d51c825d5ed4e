"""Chat templates that render each turn by itself: one rendering then gives the text up to every turn of it.

A template is taken for one if its program says so: one loop over all messages, whose body looks at the message at hand,
at the first one and at the loop's count alone, and nothing behind the loop looks at messages. Any other is rendered
once for each text that is wanted. Must not know rows or tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

MARK: Final = "\x00\x1fturn\x1f\x00"
"""Stands behind each turn in a marked rendering; a text that holds it is rendered as any other template's."""
_FILTERS: Final = {"trim", "string", "upper", "lower", "default", "tojson"}
_TESTS: Final = {"defined", "undefined", "none", "string", "true", "false", "equalto"}
_METHODS: Final = {"strip", "lstrip", "rstrip", "startswith", "endswith", "split", "replace", "upper", "lower", "get"}
_LOOP: Final = {"first", "index", "index0"}
_CONSTANT: Final = {"tools", "documents", "date_string"}  # of plain turns: None, and the day that is always given
_PURE: Final = {
    *("Output", "TemplateData", "Const", "Slice", "If", "CondExpr", "Compare", "Operand", "List", "Tuple", "Keyword"),
    *("Concat", "Add", "Sub", "Mul", "Mod", "Neg", "Not", "And", "Or"),
}
"""Nodes of Jinja that look at nothing but what is in them; others have a method of `_Check`, or are refused."""


def marked(environment: Any, template: str, constants: Collection[str]) -> Any | None:
    """The template, compiled, with a MARK behind each turn; None if it does not render each by itself.

    `constants` are names whose values are the same in every rendering.
    """
    from jinja2 import nodes

    tree = environment.parse(template)
    loops = [each for each in tree.body if isinstance(each, nodes.For)]
    if len(loops) != 1:
        return None
    loop, at = loops[0], tree.body.index(loops[0])
    target: Any = loop.target
    if not isinstance(target, nodes.Name):
        return None
    check = _Check({*constants, *_CONSTANT})
    before = all(map(check.is_pure, tree.body[:at]))
    if not before or not check.is_all_messages(loop.iter) or loop.else_ or loop.test or loop.recursive:
        return None
    inside = _Check({*check.names, target.name}, messages=check.messages, in_loop=True)
    inside.macros = check.macros
    behind = _Check({*constants, *_CONSTANT, "add_generation_prompt"}, messages=set())
    if not all(map(inside.is_pure, loop.body)) or not all(map(behind.is_pure, tree.body[at + 1 :])):
        return None
    loop.body.append(nodes.Output([nodes.TemplateData(MARK)]))
    return environment.from_string(tree)


class _Check:
    """Whether nodes of a template depend on nothing but `names`, and the first of the `messages`."""

    def __init__(self, names: set[str], *, messages: set[str] | None = None, in_loop: bool = False) -> None:
        self.names, self.in_loop = names, in_loop
        self.macros = {"raise_exception"}
        self._own = {
            "Name": self._name,
            "Getitem": self._getitem,
            "Getattr": self._getattr,
            "Filter": self._filter,
            "Test": self._test,
            "Assign": self._assign,
            "Macro": self._macro,
            "Call": self._call,
        }
        self.messages = {"messages"} if messages is None else messages

    def is_all_messages(self, node: Any) -> bool:
        """Whether it is the list of messages itself."""
        return type(node).__name__ == "Name" and node.name in self.messages

    def is_pure(self, node: Any) -> bool:
        """Whether the node and all in it are so; names that it sets count from here on."""
        kind = type(node).__name__
        if kind in self._own:
            return self._own[kind](node)
        return kind in _PURE and self._has_pure_children(node)

    def _has_pure_children(self, node: Any) -> bool:
        return all(map(self.is_pure, node.iter_child_nodes()))

    def _name(self, node: Any) -> bool:
        return bool(node.name in self.names)

    def _getitem(self, node: Any) -> bool:
        if self.is_all_messages(node.node):
            return type(node.arg).__name__ == "Const" and node.arg.value == 0
        return self._has_pure_children(node)

    def _getattr(self, node: Any) -> bool:
        if type(node.node).__name__ == "Name" and node.node.name == "loop":
            return self.in_loop and node.attr in _LOOP
        return self.is_pure(node.node)

    def _filter(self, node: Any) -> bool:
        return node.name in _FILTERS and self._has_pure_children(node)

    def _test(self, node: Any) -> bool:
        return node.name in _TESTS and self._has_pure_children(node)

    def _assign(self, node: Any) -> bool:
        if type(node.target).__name__ != "Name":
            return False
        if self.is_all_messages(node.node) and node.target.name not in self.names:
            self.messages.add(node.target.name)
            return True
        if node.target.name in self.messages or not self.is_pure(node.node):
            return False
        self.names.add(node.target.name)
        return True

    def _macro(self, node: Any) -> bool:
        """A macro of text alone, as that which gives the day."""
        if not all(type(each).__name__ == "TemplateData" for body in node.body for each in body.iter_child_nodes()):
            return False
        self.macros.add(node.name)
        return True

    def _call(self, node: Any) -> bool:
        called = node.node
        if type(called).__name__ == "Name":
            known = called.name in self.macros
        else:
            known = type(called).__name__ == "Getattr" and called.attr in _METHODS and self.is_pure(called.node)
        return known and all(map(self.is_pure, (*node.args, *node.kwargs)))


class TurnByTurn:
    """Renders conversations of plain turns once, by a template with marks: `tail` is what asks for an answer."""

    def __init__(self, render: Callable[..., str]) -> None:
        self._render = render
        self._last: tuple[tuple[Any, ...], list[str]] | None = None
        self.tail = ""

    def known(self, key: tuple[Any, ...]) -> list[str] | None:
        """What `pieces` gave for this key, if it was the last one."""
        last = self._last
        return last[1] if last is not None and last[0] == key else None

    def pieces(self, key: tuple[Any, ...], turns: Sequence[dict[str, Any]]) -> list[str] | None:
        """The text of each turn, and what is behind the last one; None if that is not sure. Kept for `key`."""
        try:
            pieces = self._render(messages=turns, add_generation_prompt=False).split(MARK)
        except Exception:  # foreign code: the plain rendering raises it where it is told
            return None
        if len(pieces) != len(turns) + 1:
            return None
        self._last = (key, pieces)
        return pieces

    def agrees(
        self, whole: Callable[[Sequence[dict[str, Any]], bool], str], turns: Sequence[dict[str, Any]], *,
        refused: bool = False,
    ) -> bool:  # fmt: skip
        """Whether its texts of some turns are those of `whole(turns, generation)`; finds the `tail`.

        `refused` is what counts where the template refuses these turns.
        """
        try:
            self.tail = self._render(messages=turns, add_generation_prompt=True).rpartition(MARK)[2]
            pieces = self.pieces((), turns)
            return pieces is not None and all(
                "".join(pieces[:n]) + (self.tail if generation else pieces[-1]) == whole(turns[:n], generation)
                for n in range(1, len(turns) + 1)
                for generation in (False, True)
            )
        except Exception:  # foreign code
            return refused
