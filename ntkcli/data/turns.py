"""Which turns of a conversation stay when it is too long: cut at the boundaries of turns, never within.

Must not know templates or tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from ntkcli.data.rows import Message

_OPENING = ("system", "user")


def shortened(messages: Sequence[Message], learned: Sequence[int]) -> list[tuple[int, ...]]:
    """The ways to keep some of the turns, as ascending positions, from all of them to the fewest.

    `learned` are the positions of the turns to learn, ascending. First goes what follows the last of them, then the
    oldest exchanges, one by one; system turns at the beginning stay. Of the last exchange that is left, which begins
    with a user's turn, the later answers go first, down to its first one to learn. So every turn to learn that is
    kept has its exchange, from the user's turn on, before it.
    """
    everything = tuple(range(len(messages)))
    if not learned:
        return [everything]
    system = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    starts = [i for i in exchanges(messages) if i <= learned[-1]]
    ends = [turn for turn in reversed(learned) if turn >= starts[-1]]
    kept = [(start, ends[0]) for start in starts] + [(starts[-1], end) for end in ends[1:]]
    views = [(*range(system), *range(start, end + 1)) for start, end in kept]
    return list(dict.fromkeys([everything, *views]))


def exchanges(messages: Sequence[Message]) -> list[int]:
    """Where exchanges begin: with a user's turn, or a system turn before it, after the assistant's or a tool's.

    System turns at the beginning of the conversation belong to no exchange.
    """
    first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    roles = [message.role for message in messages]
    return [
        i for i in range(first, len(messages)) if i == first or (roles[i] in _OPENING and roles[i - 1] not in _OPENING)
    ]
