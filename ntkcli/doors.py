"""Doors for methods of other packages: the built-in entries of one kind, and those that entry points add by name.

A package opens a door by an entry point such as `shortest = "my_package:SHORTEST"` in the group `ntksel.scores`. Names
are listed and checked without importing it; its code is imported when the entry is first used. Must not know what the
entries are for: each kind has a table (`registry.py`) next to the code that runs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ntkcli.errors import NtkselError, UsageError
from ntkcli.notes import note

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

EntryT = TypeVar("EntryT")

SPEC_KEY: Final = "plugins"
"""Of a spec: what it was made with that is not built in, name → door, package and version. Missing if all is."""

Made = dict[str, dict[str, str]]
"""Under `SPEC_KEY`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an entry that is not built in comes from: its door and name, and the package that brings it."""

    door: str
    name: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"

    def spec(self) -> Made:
        """As it appears in a spec, under `SPEC_KEY`."""
        return {self.name: {"door": self.door, "package": self.package, "version": self.version}}


class Door(Generic[EntryT]):
    """The entries of one kind: `builtin`, which nothing can replace, and those of the entry points `group`.

    `sort` is the class of the entries; `thing` names one in messages and `option` is where its name is given.
    """

    def __init__(
        self, group: str, sort: type[EntryT], *, thing: str, option: str, builtin: Mapping[str, EntryT]
    ) -> None:
        self.group, self.thing, self.option = group, thing, option
        self._sort, self.builtin = sort, dict(builtin)

    def names(self) -> list[str]:
        """All names: the built-in ones in their order, then those of plug-ins, sorted."""
        added = {origin.name for origin, _ in _installed(self.group, tuple(sys.path))}
        return [*self.builtin, *sorted(added - self.builtin.keys())]

    def get(self, name: str) -> EntryT:
        """The entry of this name.

        Raises:
            UsageError: there is none, two packages bring one of this name, or its code can't be imported.
        """
        found = self._plugins(name)
        if name in self.builtin:
            for origin, _ in found:
                note(f"{origin} brings a {self.thing} {name!r}, which is built in: the built-in one is used")
            return self.builtin[name]
        origin, point = self._only(name, found)
        return self._load(origin, point)

    def origin(self, name: str) -> Origin | None:
        """Where the entry comes from; None for a built-in one. UsageError as `get` has it."""
        return None if name in self.builtin else self._only(name, self._plugins(name))[0]

    def spec(self, name: str) -> dict[str, Made]:
        """What the spec of something made with the entry says of its origin: nothing for a built-in one."""
        origin = self.origin(name)
        return {} if origin is None else {SPEC_KEY: origin.spec()}

    def packages(self, name: str) -> tuple[str, ...]:
        """The package of a plug-in, whose version is recorded with the numpy's and zarr's; none of a built-in one."""
        origin = self.origin(name)
        return () if origin is None else (origin.package,)

    def require(self, name: str) -> None:
        """UsageError, with all names, unless there is an entry of this name. Imports nothing."""
        if name not in self.builtin:
            self._only(name, self._plugins(name))

    @contextmanager
    def blaming(self, name: str) -> Iterator[None]:
        """An error of a plug-in's own code is reported as such; those of ntksel, and of built-in entries, pass."""
        try:
            yield
        except (NtkselError, OSError, MemoryError):
            raise
        except Exception as error:
            from store import StoreError  # numpy with it, which `--help` need not wait for

            origin = self.origin(name)
            if origin is None or isinstance(error, StoreError):
                raise
            raise NtkselError(
                f"The {self.thing} {name!r} of {origin} failed: {type(error).__name__}: {error}.",
                "Report it to the author of that package; -v shows where.",
            ) from error

    def _plugins(self, name: str) -> list[tuple[Origin, EntryPoint]]:
        return [each for each in _installed(self.group, tuple(sys.path)) if each[0].name == name]

    def _only(self, name: str, found: list[tuple[Origin, EntryPoint]]) -> tuple[Origin, EntryPoint]:
        if not found:
            raise UsageError(f"{self.option} {name} is not known.", f"Give one of: {', '.join(self.names())}.")
        if len(found) > 1:
            both = " and ".join(str(origin) for origin, _ in found)
            raise UsageError(f"{self.option} {name}: {both} both bring a {self.thing} of this name.", "Uninstall one.")
        return found[0]

    def _load(self, origin: Origin, point: EntryPoint) -> EntryT:
        try:
            entry = point.load()
        except Exception as error:
            raise UsageError(
                f"The {self.thing} {origin.name!r} of {origin} can't be loaded from {point.value}: "
                f"{type(error).__name__}: {error}.",
                f"Install what it needs, or `pip uninstall {origin.package}`.",
            ) from error
        if not isinstance(entry, self._sort):
            raise UsageError(
                f"The {self.thing} {origin.name!r} of {origin}: {point.value} is a {type(entry).__name__}, expected a "
                f"{self._sort.__name__} of ntkcli.plugins.",
                f"Report it to the author of {origin.package}.",
            )
        return entry


def refuse_missing(spec: Mapping[str, Any], what: str) -> None:
    """UsageError if `what`, which has this spec, was made with a plug-in that is not installed. Any version will do."""
    for name, made in spec.get(SPEC_KEY, {}).items():
        there = _installed(made["door"], tuple(sys.path))
        if not any((origin.name, origin.package) == (name, made["package"]) for origin, _ in there):
            raise UsageError(
                f"{what} was made with {name!r} of the plug-in {made['package']} {made['version']}, which is "
                "not installed.",
                f"Run `pip install {made['package']}=={made['version']}`.",
            )


@lru_cache(maxsize=64)
def _installed(group: str, path: tuple[str, ...]) -> tuple[tuple[Origin, EntryPoint], ...]:  # noqa: ARG001  # path: the cache's key
    """The entry points of a group, sorted, with their packages. Looked up once for each `sys.path`."""
    from importlib.metadata import entry_points  # email and zipfile with it, which a start need not wait for

    found = []
    for point in entry_points(group=group):
        package, version = ("unknown", "unknown") if point.dist is None else (point.dist.name, point.dist.version)
        found.append((Origin(group, point.name, package, version), point))
    return tuple(sorted(found, key=lambda each: (each[0].name, each[0].package)))
