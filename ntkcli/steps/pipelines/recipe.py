"""A recipe: a TOML file of steps, each a command with its options, and the commands that it runs.

Pure reading and checking. Must not know the commands themselves: their words come in as a `Vocabulary`.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from ntkcli.data.formats.compression import without_bom
from ntkcli.errors import UsageError
from ntkcli.paths import home
from ntkcli.steps.shared.outputs import write_output

TOP: Final = ("store", "defaults", "step")
"""What a recipe may hold on top."""
OWN: Final = ("verb", "store")
"""Keys of a step that are not options."""
UNIQUE: Final = ("name",)
"""Options that can't be the same for several steps, so no default makes sense for them."""
SPELLINGS: Final = {"center": "centre", "normalize": "normalise"}
"""Other spellings of options, as the command line takes them too."""
EXAMPLE: Final = Path(__file__).resolve().parents[2] / "recipe.toml"


@dataclass(frozen=True, slots=True)
class Option:
    """How an option is written: its flag, whether it takes no value, and whether it may be repeated."""

    flag: str
    is_switch: bool = False
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """A command's words: its arguments after the store, in order, and its options by their keys."""

    arguments: tuple[str, ...]
    options: Mapping[str, Option]

    @property
    def keys(self) -> tuple[str, ...]:
        """All that a step of this verb may set."""
        return (*self.arguments, *self.options)


Vocabulary = Mapping[str, Verb]


@dataclass(frozen=True, slots=True)
class Step:
    """One command: the verb, its store, and the values of its keys; `line` is that of its header in the file."""

    verb: str
    store: str
    values: Mapping[str, Any]
    line: int = 0
    lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the step makes, "" if it has no name."""
        return str(self.values.get("name", ""))

    @property
    def names(self) -> tuple[str, ...]:
        """All that it makes: several scores have their names behind their methods."""
        methods = self.values.get("method", "")
        own = [str(each).partition("=")[2] for each in (methods if isinstance(methods, list) else [methods])]
        return tuple(name for name in (self.name, *own) if name)

    def arguments(self, vocabulary: Vocabulary) -> list[str]:
        """The words behind `ntksel`."""
        verb = vocabulary[self.verb]
        words = [self.verb, self.store, *(str(self.values[key]) for key in verb.arguments if key in self.values)]
        for key, value in self.values.items():
            if key in verb.options:
                words += _words(verb.options[key], value)
        return words


@dataclass(frozen=True, slots=True)
class Recipe:
    """A file and its steps in order."""

    path: Path
    steps: tuple[Step, ...]

    def where(self, number: int, key: str = "") -> str:
        """ "recipe.toml line 12, step 3 (score)", for messages."""
        step = self.steps[number]
        return f"{self.path} line {step.lines.get(key, step.line)}, step {number + 1} ({step.verb})"


def as_shell(arguments: Sequence[str]) -> str:
    """The command as one would type it."""
    return shlex.join(["ntksel", *arguments])


def read_recipe(path: str | Path, vocabulary: Vocabulary) -> Recipe:
    """The recipe in a file, its defaults filled in.

    Raises:
        UsageError: it can't be read, or holds a key that nobody knows: the message has its line and the nearest one.
    """
    path = Path(home(path))
    try:
        text = without_bom(path, path.read_bytes()).decode("utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        reason = f"{path} can't be read: {error.strerror or error}."
        raise UsageError(reason, "Give a recipe's file; `ntksel run --example` shows one.") from error
    except ValueError as error:  # no UTF-8, no TOML
        raise UsageError(
            f"{path} is not valid TOML: {error}.", "Fix it there; `ntksel run --example` shows a recipe."
        ) from error
    places = _Places(text)
    for key in content:
        if key not in TOP:
            raise _unknown(f"{path} line {places.of(key)}", key, TOP)
    tables = content.get("step")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{path} has no [[step]].", "`ntksel run --example` shows a recipe.")
    defaults = _Defaults(path, content.get("defaults", {}), places, vocabulary)
    steps = [
        _step(path, table, content.get("store"), defaults, places.step(i), vocabulary) for i, table in enumerate(tables)
    ]
    defaults.refuse_unused(steps)
    return Recipe(path, tuple(steps))


class _Places:
    """Where keys stand in the text: tomllib tells only of errors."""

    _HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\"'-]+)\s*\]\]?")
    _KEY = re.compile(r"\s*[\"']?([\w-]+)[\"']?\s*[=.]")

    def __init__(self, text: str) -> None:
        self._tables: list[tuple[str, int, dict[str, int]]] = [("", 1, {})]
        for number, line in enumerate(text.splitlines(), start=1):
            if header := self._HEADER.match(line):
                self._tables.append((header[2].strip("\"'"), number, {}))
            elif key := self._KEY.match(line):
                self._tables[-1][2].setdefault(key[1], number)

    def of(self, key: str, table: str = "") -> int:
        """The line of a key of a table, or of the table of that name; else of the table itself."""
        for name, number, keys in self._tables:
            if name == table and key in keys:
                return keys[key]
            if name == (f"{table}.{key}" if table else key):
                return number
        return next((number for name, number, _ in self._tables if name == table), 1)

    def step(self, index: int) -> tuple[int, dict[str, int]]:
        """The lines of a step's header and of its keys."""
        found = [(number, keys) for name, number, keys in self._tables if name == "step"]
        return found[index] if index < len(found) else (1, {})


class _Defaults:
    """Values for all steps whose verb knows the key, and for those of one verb, which win."""

    def __init__(self, path: Path, table: Any, places: _Places, vocabulary: Vocabulary) -> None:
        if not isinstance(table, dict):
            raise UsageError(f"{path} line {places.of('defaults')}: defaults is not a table.", "Write [defaults].")
        self._path, self._places, self._vocabulary = path, places, vocabulary
        self.own = {verb: value for verb, value in table.items() if verb in vocabulary and isinstance(value, dict)}
        self.all = {_key(key): value for key, value in table.items() if key not in self.own}
        known = {key for verb in vocabulary.values() for key in verb.options} - set(UNIQUE)
        for key in table:
            if key not in self.own and _key(key) not in known:
                raise _unknown(self._where(key), key, [*known, *vocabulary])
        for verb, values in self.own.items():
            for key in values:
                if _key(key) not in set(vocabulary[verb].options) - set(UNIQUE):
                    where = f"{path} line {places.of(key, f'defaults.{verb}')}"
                    raise _unknown(where, key, vocabulary[verb].options)

    def of(self, verb: str) -> dict[str, Any]:
        """What a step of this verb has unless it says otherwise."""
        own = {_key(key): value for key, value in self.own.get(verb, {}).items()}
        return {key: value for key, value in self.all.items() if key in self._vocabulary[verb].options} | own

    def refuse_unused(self, steps: Sequence[Step]) -> None:
        """A default that no step takes is a mistake."""
        verbs = {step.verb for step in steps}
        for verb in self.own:
            if verb not in verbs:
                raise UsageError(f"{self._where(verb)}: no step is a {verb}.", "Take the table out.")
        for key in self.all:
            if not any(key in self._vocabulary[verb].options for verb in verbs):
                raise UsageError(f"{self._where(key)}: no step has the option {key!r}.", "Take it out.")

    def _where(self, key: str) -> str:
        return f"{self._path} line {self._places.of(key, 'defaults')}"


def _step(
    path: Path,
    table: Mapping[str, Any],
    store: Any,
    defaults: _Defaults,
    place: tuple[int, dict[str, int]],
    vocabulary: Vocabulary,
) -> Step:
    line, lines = place
    verb = table.get("verb")
    if not isinstance(verb, str) or verb not in vocabulary:
        where = f"{path} line {lines.get('verb', line)}"
        if verb is None:
            raise UsageError(f"{where}: the step has no verb.", f"Give one of: {', '.join(vocabulary)}.")
        raise _unknown(where, str(verb), vocabulary, what="verb")
    store = table.get("store", store)
    if not isinstance(store, str) or not store:
        raise UsageError(f"{path} line {line}: the step has no store.", 'Write store = "FOLDER" on top of the recipe.')
    known = vocabulary[verb].keys
    for key in table:
        if key not in OWN and _key(key) not in known:
            raise _unknown(f"{path} line {lines.get(key, line)}, {verb}", key, [*known, *OWN])
    own = {_key(key): value for key, value in table.items() if key not in OWN}
    values = {key: value for key, value in (own | _without(defaults.of(verb), own)).items() if value is not False}
    for key, value in values.items():
        _check_value(f"{path} line {lines.get(key, line)}, {verb}", key, value, vocabulary[verb])
    return Step(verb, store, values, line, {_key(key): number for key, number in lines.items()})


def _check_value(where: str, key: str, value: Any, verb: Verb) -> None:
    option = verb.options.get(key)
    if option is not None and option.is_switch:
        if value is not True:
            raise UsageError(f"{where}: {key} = {value!r} is a switch.", "Give true or false.")
    elif value is True or not isinstance(value, str | int | float | list | dict):
        raise UsageError(f"{where}: {key} takes a value.", f"Write {key} = VALUE, or leave it out.")
    elif option is None and isinstance(value, list | dict):
        raise UsageError(f"{where}: {key} takes one value.", f'Write {key} = "VALUE".')


def _words(option: Option, value: Any) -> Iterator[str]:
    """The words of one option; a list repeats it or, where it can't be repeated, is joined by commas."""
    if option.is_switch:
        yield option.flag
        return
    for item in value if isinstance(value, list) and option.repeats else [value]:
        yield from (option.flag, _text(item))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_text(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{key}={_text(item)}" for key, item in value.items())
    return str(value)


def _without(values: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in taken}


def _key(key: str) -> str:
    """The option that a key names: `_` counts as `-`, and both spellings of a word are the same."""
    key = key.replace("_", "-")
    return SPELLINGS.get(key, key)


def _unknown(
    where: str, key: str, known: Sequence[str] | Mapping[str, Any] | set[str], *, what: str = "key"
) -> UsageError:
    names = list(known)
    near = get_close_matches(_key(key).lower(), names, n=1, cutoff=0.5)
    fix = f"Do you mean {near[0]!r}?" if near else f"Known are: {', '.join(sorted(names))}."
    return UsageError(f"{where}: the {what} {key!r} is not known.", fix)


def write_recipe(path: str | Path, steps: Sequence[Step], *, comment: str = "") -> None:
    """Write steps as a recipe's file; `read_recipe` gives the same steps. UsageError if the file can't be written."""
    lines = [f"# {line}" for line in comment.splitlines()]
    for step in steps:
        lines += ["", "[[step]]", f"verb = {_toml(step.verb)}", f"store = {_toml(step.store)}"]
        lines += [f"{key} = {_toml(value)}" for key, value in step.values.items()]
    try:
        write_output(path, ("\n".join(lines).lstrip("\n") + "\n").encode(), {"steps": len(steps)})
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror or error}.", "Give another path.") from error


def _toml(value: Any) -> str:
    """A value as TOML writes it; its strings are JSON's, escapes included."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
