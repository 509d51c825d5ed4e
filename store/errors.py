"""What can go wrong with a store. Every error says what was found and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence

from store.fix import Fix
from store.spec import Difference


class StoreError(Exception):
    """Base of all errors of this package: `what` was found, and how to `fix` it."""

    def __init__(self, what: str, fix: str | Fix) -> None:
        super().__init__(what, fix)  # both in args, so that the error survives pickling between processes
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


class NoStoreError(StoreError):
    """The path holds no store, or something that is not one."""


class NewerFormatError(StoreError):
    """The store was written by a newer version, whose bytes this one could misread."""


class NameInvalidError(StoreError):
    """A name that the format does not allow."""


class MissingArtefactError(StoreError):
    """No artefact of this name."""


class IncompleteError(StoreError):
    """Rows were asked for whose part has no record yet."""


class DamagedError(StoreError):
    """A file is missing, cut or altered. `artefact`, `part` and `rows` (start, stop) say what it held."""

    def __init__(
        self,
        what: str,
        fix: str | Fix,
        *,
        artefact: str = "",
        part: int | None = None,
        rows: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(what, fix)
        self.artefact = artefact
        self.part = part
        self.rows = rows


class SpecDiffersError(StoreError):
    """The artefact exists with another spec; `differences` lists each field."""

    def __init__(self, what: str, fix: str | Fix, *, differences: Sequence[Difference] = ()) -> None:
        super().__init__(what, fix)
        self.differences = tuple(differences)
