"""What a new artefact declares, checked, and whether one on disk declares the same. Touches no disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from store.artefact import Artefact
from store.attributes import RESERVED, sealed
from store.documents import ArraySpec
from store.errors import NameInvalidError, SpecDiffersError, StoreError
from store.layout import RECORDS, Kind, check_name, kind_of
from store.spec import canonical_json, differences, fingerprint, listed


def attributes(
    name: str,
    *,
    kind: Kind | str,
    spec: Mapping[str, Any],
    parents: Mapping[str, str],
    n: int,
    part_rows: int,
    arrays: Mapping[str, ArraySpec],
    plan: Mapping[str, Any],
    attrs: Mapping[str, Any],
) -> dict[str, Any]:
    """The attributes of a new artefact, as they will be read back from JSON; StoreError if they can't be."""
    if kind_of(name) != kind:
        what = f"{name} is the path of kind {kind_of(name)}, not of {kind}"
        raise NameInvalidError(what, "give a path and a kind that go together")
    if n < 0 or part_rows < 1:
        raise StoreError(f"{name} can't have {n} rows in parts of {part_rows}", "give n >= 0, part_rows >= 1")
    if taken := RESERVED & attrs.keys():
        raise StoreError(f"{sorted(taken)} can't be free attributes of {name}", "give them as arguments")
    for array in arrays:
        if check_name(array, "array") == RECORDS:
            raise NameInvalidError(f"no array of {name} can be called {array!r}", "that one holds the records")
    declared = {
        **attrs,
        "artefact": str(kind),
        "spec": spec,
        "fingerprint": fingerprint(spec),
        "parents": parents,
        "n": n,
        "part_rows": max(1, min(part_rows, n)),
        "plan": plan,
    }
    return sealed(json.loads(canonical_json(declared)), name, arrays)


def refuse_differences(artefact: Artefact, asked: Mapping[str, Any], arrays: Mapping[str, ArraySpec]) -> None:
    """SpecDiffersError if `artefact` is not the one asked for. Its plan and part rows may differ."""
    changed = differences(artefact.spec, asked["spec"])
    changed += differences(_frame(artefact.attrs, artefact.arrays), _frame(asked, arrays))
    if changed:
        what = f"{artefact.name} exists and was made with other settings: {listed(changed)}"
        raise SpecDiffersError(what, "use those settings or another name", differences=changed)


def _frame(attrs: Mapping[str, Any], arrays: Mapping[str, ArraySpec]) -> dict[str, Any]:
    """What must agree beside the spec."""
    shapes = {name: {"dtype": spec.dtype, "row_shape": spec.tail} for name, spec in arrays.items()}
    return {**{key: attrs[key] for key in ("artefact", "parents", "n")}, "arrays": shapes}
