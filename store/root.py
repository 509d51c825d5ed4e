"""A store: the folder, its artefacts by name, and their creation. Reads JSON only; creating imports zarr."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from store import atomic, declaration, documents, growth, header
from store.artefact import GREW, HEADS, Artefact
from store.attributes import RESERVED
from store.documents import ArraySpec
from store.errors import DamagedError, MissingArtefactError, SpecDiffersError, StoreError
from store.fix import Fix, fix, making, removing
from store.layout import ARRAYS, NODE_FILE, PLACES, TMP, Kind, check_name, is_name, kind_of
from store.parts import create_files
from store.scratch import Scratch
from store.spec import differences, fingerprint, listed


class Store:
    """One project's cache, in the folder `path`. Get one by `open` or `open_or_create`."""

    def __init__(self, path: Path, said: Mapping[str, Any], fetch: Callable[[Path], None] | None = None) -> None:
        self.path = path
        self.said = said
        self.id = str(said["id"])
        self.made_by = str(said["made_by"])
        self.version = int(said["version"])
        self.scratch = Scratch(path / TMP)
        self._fetch = fetch

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    @classmethod
    def open(cls, path: str | Path, *, fetch: Callable[[Path], None] | None = None) -> Self:
        """The store at `path`; NoStoreError if there is none, NewerFormatError if it is too new.

        `fetch` is called with the path of each chunk before it is read: the store is a copy without its chunks, and it
        brings them.
        """
        path = Path(path)
        return cls(path, header.read(path), fetch)

    @classmethod
    def open_or_create(cls, path: str | Path, *, made_by: str) -> Self:
        """The store at `path`, made if there is nothing or an empty folder; `made_by` is "ntksel 0.1.0".

        Of several creators at once, all get the same store. NoStoreError, and nothing written, if the folder
        holds other things.
        """
        path = Path(path)
        header.create(path, Scratch(path / TMP), made_by=made_by)
        store = cls.open(path)
        header.ensure_copy(path, store.said, temp=store.tmp_path)
        store.make_groups("")
        return store

    def folder(self, *names: str) -> Path:
        """The path of a folder or file in the store, such as ("adapters", run); every name is checked."""
        return self.path.joinpath(*(check_name(name) for name in names))

    def adapter_path(self, run: str) -> Path:
        """Where the adapter of `run` lies."""
        return self.path / "adapters" / check_name(run, "run")

    def tmp_path(self) -> Path:
        """A path for work in flight, to be renamed to its place; removed by a later run if this one dies."""
        return self.scratch.fresh()

    def create(
        self,
        name: str,
        *,
        kind: Kind | str,
        spec: Mapping[str, Any],
        parents: Mapping[str, str],
        n: int,
        part_rows: int,
        arrays: Mapping[str, ArraySpec],
        plan: Mapping[str, Any] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> Artefact:
        """The artefact `name`: made, whole, or the existing one with the plan and part rows that it has.

        `part_rows` is cut to `n`: chunks are stored whole. SpecDiffersError if it exists with another spec,
        kind, parents, number of rows or arrays. Removes what dead writers left.
        """
        attributes = declaration.attributes(
            name,
            kind=kind,
            spec=spec,
            parents=parents,
            n=n,
            part_rows=part_rows,
            arrays=arrays,
            plan=plan or {},
            attrs=attrs or {},
        )
        self.scratch.clean()
        if self.find(name) is None:
            built, final = self.tmp_path(), self._place(name)
            create_files(built, attributes, n=n, part_rows=attributes["part_rows"], arrays=arrays)
            self.make_groups(name)
            atomic.publish_dir(built, final)
        artefact = self.get(name)
        declaration.refuse_differences(artefact, attributes, arrays)
        return artefact

    def grow(
        self,
        name: str,
        *,
        spec: Mapping[str, Any],
        parents: Mapping[str, str],
        n: int,
        part_rows: int,
        attrs: Mapping[str, Any] | None = None,
        write: Callable[[Artefact], None] | None = None,
    ) -> Artefact:
        """The artefact `name` with `n` rows and another spec: rows are appended, those that it has are kept.

        Whole parts stay as they are; of the part that gets longer the rows are its `head`. What is new is pending. An
        artefact of one part gets parts of `part_rows`, others keep theirs. `attrs` replace its own of that name. With
        `write` nothing is kept: it is given the longer artefact and writes all rows before that takes the place.

        The old artefact stands, whole, until the new one takes its place. If another writer was first, its is returned.
        """
        self.scratch.clean()
        with atomic.locked(self._place(name)):
            old = self.get(name)
            if old.fingerprint == fingerprint(spec):
                return old
            if n < old.n:
                raise StoreError(f"{name} has {old.n} rows and can't grow to {n}", "give as many or more")
            part_rows = part_rows if write else old.part_rows if old.n_parts > 1 else max(part_rows, old.n)
            free = {key: value for key, value in old.attrs.items() if key not in RESERVED}
            grew = [*old.attrs.get(GREW, []), {"n": old.n, "fingerprint": old.fingerprint}]
            heads = [] if write else growth.heads_of(old, n, min(part_rows, n))
            said = declaration.attributes(
                name, kind=old.kind, spec=spec, parents=parents, n=n, part_rows=part_rows, arrays=old.arrays,
                plan=old.plan, attrs={**free, **(attrs or {}), HEADS: heads, GREW: grew},
            )  # fmt: skip
            built = self.tmp_path()
            if write:
                create_files(built, said, n=n, part_rows=said["part_rows"], arrays=old.arrays)
                write(Artefact.load(built, name, self.scratch))
            else:
                growth.build(old, built, said)
            atomic.replace_dir(built, self._place(name))
        return self.get(name)

    def find(self, name: str) -> Artefact | None:
        """The artefact `name`, or None. DamagedError if its folder stands without good attributes."""
        kind_of(name)
        path = self._place(name)
        atomic.restore_aside(path)
        return Artefact.load(path, name, self.scratch, self._fetch) if path.is_dir() else None

    def get(self, name: str) -> Artefact:
        """The artefact `name`; MissingArtefactError lists what there is of its kind."""
        artefact = self.find(name)
        if artefact is None:
            raise self._missing(name)
        return artefact

    def artefacts(
        self, kind: Kind | str | None = None, *, on_damage: Callable[[DamagedError], None] | None = None
    ) -> list[Artefact]:
        """All artefacts, or those of one kind, sorted by name.

        The first damaged one is raised, or each is given to `on_damage` and left out.
        """
        found = []
        for name in self.names(Kind if kind is None else [Kind(kind)]):
            try:
                found.append(self.get(name))
            except DamagedError as error:
                if on_damage is None:
                    raise
                on_damage(error)
        return found

    def check_parents(self, artefact: Artefact) -> None:
        """SpecDiffersError if what `artefact` was made from, or what that was made from, and so on, has changed.

        The error names the first that is stale and the commands that make it again. A parent that was removed has
        not changed: what was made from it is still what it was.
        """
        seen, waiting = {artefact.name}, [artefact]
        while waiting:
            child = waiting.pop()
            now = {name: found for name in child.parents if (found := self.find(name)) is not None}
            current = {name: found.fingerprint for name, found in now.items()}
            if changed := differences({name: child.parents[name] for name in current}, current):
                if grown := self._grown(child, now, [change.field for change in changed]):
                    what, how = grown
                    raise SpecDiffersError(what, how, differences=changed)
                rests = "" if child is artefact else f"{artefact.name} rests on {child.name}, and "
                what = f"{rests}what {child.name} was made from has changed: {listed(changed)}"
                old, new = removing(self.path, child.name), making(self.path, child.name)
                how = fix("run ", old, " and then ", new, " again, or make it under another name")
                raise SpecDiffersError(what, how, differences=changed)
            waiting += [found for name, found in sorted(now.items()) if name not in seen]
            seen |= now.keys()

    def refuse_shorter(self, artefact: Artefact) -> None:
        """SpecDiffersError if `artefact` was made from something that is longer now; names it and how many rows."""
        now = {name: found for name in artefact.parents if (found := self.find(name)) is not None}
        current = {name: found.fingerprint for name, found in now.items()}
        changed = differences({name: artefact.parents[name] for name in current}, current)
        if changed and (grown := self._grown(artefact, now, [change.field for change in changed])):
            raise SpecDiffersError(*grown, differences=changed)

    def _grown(
        self, child: Artefact, parents: Mapping[str, Artefact], changed: Iterable[str]
    ) -> tuple[str, Fix] | None:
        """What to say if the changed parents are longer than what `child` was made from, and no other than that."""
        rows = {name: parents[name].rows_before(child.parents[name]) for name in changed}
        if None in rows.values():
            return None
        said = " and ".join(
            f"the first {n} rows of {name}, which has {parents[name].n} now" for name, n in rows.items()
        )
        old, new = removing(self.path, child.name), making(self.path, child.name)
        if child.kind == Kind.FEATURES:
            return f"{child.name} holds {said}", fix("run ", new, " again, which computes the new rows only")
        return f"{child.name} saw {said}", fix("run ", old, " and then ", new, " again, or make it under another name")

    def dependents(self, name: str) -> list[str]:
        """The artefacts that were made from `name`, sorted; damaged ones, which can't say, are left out."""
        return [other.name for other in self.artefacts(on_damage=lambda _: None) if name in other.parents]

    def remove(self, name: str) -> None:
        """Delete the artefact `name`, damaged or not, whole; MissingArtefactError if there is none."""
        self.require(name)
        atomic.withdraw_dir(self._place(name), self.tmp_path())

    def require(self, name: str) -> None:
        """MissingArtefactError unless the artefact `name` is there, damaged or not."""
        kind_of(name)
        if not self._place(name).is_dir():
            raise self._missing(name)

    def artefact_path(self, name: str) -> Path:
        """The folder of the artefact `name`, which need not exist."""
        kind_of(name)
        return self._place(name)

    def _missing(self, name: str) -> MissingArtefactError:
        kind = kind_of(name)
        there = ", ".join(self.names([kind]))
        end = f", or give one of {there}" if there else f": there is no {kind} yet"
        how = fix("make it first (", making(self.path, name), f"){end}")
        return MissingArtefactError(f"there is no {name} in {self.path}", how)

    def _place(self, name: str) -> Path:
        return self.path / ARRAYS / name

    def make_groups(self, artefact: str) -> None:
        """Make the root group and those above the artefact of this name, each in the one before, where missing."""
        folder = self.path / ARRAYS
        for name in ["", *artefact.split("/")[:-1]]:
            folder = folder / name
            atomic.make_folder(folder)
            if not (folder / NODE_FILE).exists():
                atomic.write_bytes(folder / NODE_FILE, documents.group_document({}), temp=self.tmp_path)

    def names(self, kinds: Iterable[Kind] = tuple(Kind)) -> Iterable[str]:
        """The paths of all artefacts of `kinds`, damaged or not, sorted within each."""
        root = self.path / ARRAYS
        for place, depth in (PLACES[kind] for kind in kinds):
            folders = (path for path in root.glob("/".join([place, *["*"] * depth])) if path.is_dir())
            names = sorted(path.relative_to(root).as_posix() for path in folders)
            yield from (name for name in names if all(map(is_name, name.split("/"))))
