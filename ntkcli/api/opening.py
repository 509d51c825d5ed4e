"""Open a store and look at what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ntkcli.steps.shared import stores as opening
from store import Kind

ArtefactKind = Kind
"""Kinds of artefacts; `ntkcli.api.Kind` are those of features."""


class Store:
    """A store that is open. Every function of `ntkcli.api` takes it, or its path."""

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self._opened = opening.open_store(path, create=create)

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._opened.path

    def names(self, kind: ArtefactKind | None = None) -> list[str]:
        """The names of all artefacts, or of those of one kind: `scores/near`, `features/pool/ntk`."""
        return list(self._opened.names() if kind is None else self._opened.names([kind]))

    def spec(self, artefact: str) -> dict[str, Any]:
        """Everything that can change a value in an artefact."""
        return self._opened.get(artefact).spec

    def arrays(self, artefact: str) -> dict[str, tuple[int, ...]]:
        """The arrays of an artefact with their shapes."""
        found = self._opened.get(artefact)
        return {name: (found.n, *array.tail) for name, array in found.arrays.items()}

    def read(self, artefact: str, array: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows [start, stop) of an array, as it is kept.

        Raises:
            store.IncompleteError: some of these rows are not computed yet.
            store.MissingArtefactError: there is no such artefact.
        """
        return self._opened.get(artefact).read(array, start, stop)


def open_store(path: str | Path, *, create: bool = False) -> Store:
    """The store in the folder `path`; made there if `create`.

    Raises:
        store.NoStoreError: there is none.
    """
    return Store(path, create=create)


StorePath = Store | str | Path
"""A store, or the path of its folder."""


def path_of(store: StorePath) -> Path:
    """The folder of a store."""
    return store.path if isinstance(store, Store) else Path(store)
