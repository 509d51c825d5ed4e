"""The words of a command: which of its options are not for a share of it, its seeds, what it reads and makes. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Final

SHARED: Final = frozenset({"featurize", "score", "eval", "finetune", "validate"})
"""Verbs that may be shared: `score` only by the method exact."""
_FLAGS: Final = frozenset({"--json", "--quiet", "-q", "--verbose", "-v", "--public"})
_WITH_VALUE: Final = frozenset({"--ray", "--export", "--plot", "--push-to-hub"})
_READS_RUNS: Final = frozenset(
    {"--run", "--adapter", "--init-adapter", "--match-steps", "--match-tokens", "--baseline"}
)


def is_shared(words: Sequence[str]) -> bool:
    """Whether the command's work can be shared between processes."""
    if words[0] == "score":
        return [value.partition("=")[0] for value in values(words, "--method", "-m")] == ["exact"]
    return words[0] in SHARED


def for_share(words: Sequence[str]) -> tuple[str, ...]:
    """The command without what is for the whole: where its result goes, and that it is shared."""
    return tuple(_without(words, _FLAGS, _WITH_VALUE))


def values(words: Sequence[str], *options: str) -> list[str]:
    """All values of an option, in either spelling: `--name x` and `--name=x`."""
    return [value for option, value in _given(words) if option in options]


def by_seed(words: Sequence[str]) -> list[tuple[str, ...]]:
    """A training with `--seeds`, as one command for each seed; any other as it is."""
    seeds = values(words, "--seeds")
    if not seeds:
        return [tuple(words)]
    rest = tuple(_without(words, frozenset(), frozenset({"--seeds"})))
    return [(*rest, "--seeds", seed.strip()) for seed in dict.fromkeys(seeds[-1].split(","))]


def depends(later: Sequence[str], earlier: Sequence[str]) -> bool:
    """Whether a command may read what an earlier one makes: its name is a value of an option that can mean it.

    A run is read by few options; anything else may be meant by all. Too many dependencies cost time, never values.
    """
    for name in values(earlier, "--name"):
        if earlier[0] == "finetune":
            found = [value for option, value in _given(later) if option in _READS_RUNS]
        else:
            found = [value for option, value in _given(later) if option != "--name"]
        if any(_means(token, name) for value in found for token in re.split(r"[=,]", value)):
            return True
    return False


def _means(token: str, name: str) -> bool:
    """Whether a word names what is called so: itself, or an arm or one of its seeds."""
    seed = re.compile(r"\.s\d+")
    return token == name or seed.sub("", token) == name or token == seed.sub("", name)


def _given(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with the word that follows them; of a flag that is the next option, which no name is."""
    for word, after in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        if option.startswith("-"):
            yield option, value if equals else after


def _without(words: Sequence[str], flags: Collection[str], with_value: Collection[str]) -> Iterator[str]:
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in with_value:
            skip = True
        elif word not in flags and word.partition("=")[0] not in with_value:
            yield word
