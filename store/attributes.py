"""The attributes of an artefact's group: complete, its own and unaltered; and the copy that mends them.

The group's document stands twice: as `zarr.json` and, the same bytes, as `part/copy.json`, which plain Zarr passes
over. Each holds its own digest and the artefact's path, so that either can be told to be whole by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from store import atomic, documents
from store.documents import COPY, ArraySpec
from store.layout import NODE_FILE, kind_of
from store.spec import FINGERPRINT_DIGITS, canonical_json, fingerprint

DIGEST: Final = "attributes_digest"
REQUIRED: Final = frozenset({"artefact", "spec", "fingerprint", "parents", "n", "part_rows", "plan"})
RESERVED: Final = REQUIRED | {"name", "arrays", DIGEST}
"""What an artefact says of itself; the last three are lacking in those that were made before there were copies."""


def sealed(attributes: Mapping[str, Any], name: str, arrays: Mapping[str, ArraySpec]) -> dict[str, Any]:
    """`attributes` with the artefact's path, the declaration of its arrays and the digest of all of these."""
    declared = {array: spec.declaration() for array, spec in sorted(arrays.items())}
    said = {**attributes, "name": name, "arrays": declared}
    return {**said, DIGEST: digest(said)}


def digest(attributes: Mapping[str, Any]) -> str:
    """32 hex digits of the SHA-256 of all other attributes as canonical JSON."""
    said = {key: value for key, value in attributes.items() if key != DIGEST}
    return hashlib.sha256(canonical_json(said)).hexdigest()[:FINGERPRINT_DIGITS]


def declared(attributes: Mapping[str, Any]) -> dict[str, ArraySpec] | None:
    """The arrays as declared; None in an artefact that was made before there were declarations."""
    if DIGEST not in attributes:
        return None
    return {name: ArraySpec.of_declaration(said) for name, said in attributes["arrays"].items()}


def read(path: Path, name: str) -> dict[str, Any]:
    """The attributes of the artefact `name` in the folder `path`; DamagedError if they are no good."""
    return _read(path / NODE_FILE, name)


def read_copy(path: Path, name: str) -> dict[str, Any]:
    """The same from the copy."""
    return _read(path / COPY, name)


def draft(path: Path, attributes: Mapping[str, Any]) -> None:
    """Write document and copy of an artefact in a folder that is not published yet."""
    document = documents.group_document(attributes)
    atomic.write_draft(path / NODE_FILE, document)
    atomic.write_draft(path / COPY, document)


def write(path: Path, attributes: Mapping[str, Any], *, temp: Callable[[], Path]) -> None:
    """Replace document and copy, durable. A kill in between leaves one of either, each whole."""
    document = documents.group_document(attributes)
    with atomic.Batch(path, temp) as batch:
        batch.add(path / NODE_FILE, [document])
        batch.add(path / COPY, [document])
        batch.publish()


def _read(file: Path, name: str) -> dict[str, Any]:
    attributes = documents.read_group_file(file, name)
    if why := _flaw(attributes, name):
        raise documents.damaged(file, name, why)
    return attributes


def _flaw(attributes: Mapping[str, Any], name: str) -> str | None:
    """What is wrong with the attributes of the artefact `name`."""
    if missing := sorted(REQUIRED - attributes.keys()):
        return f"lacks the attributes {missing}"
    later = RESERVED - REQUIRED
    missing = sorted(later - attributes.keys())
    flaws = {
        f"says that it is of kind {attributes['artefact']!r}": attributes["artefact"] != kind_of(name),
        f"says to have {attributes['n']!r} rows in parts of {attributes['part_rows']!r}": not (
            _is_count(attributes["n"], 0) and _is_count(attributes["part_rows"], 1)
        ),
        "holds a spec, parents or a plan that is not an object": not all(
            isinstance(attributes[key], dict) for key in ("spec", "parents", "plan")
        ),
        f"lacks the attributes {missing}": bool(missing) and len(missing) < len(later),
        f"is that of {attributes.get('name')!r}": attributes.get("name", name) != name,
    }
    if found := next((flaw for flaw, holds in flaws.items() if holds), None):
        return found
    if fingerprint(attributes["spec"]) != attributes["fingerprint"]:
        return "holds a spec and a fingerprint that disagree"
    if not missing and digest(attributes) != attributes[DIGEST]:
        return "holds attributes and a digest of them that disagree"
    return None


def _is_count(value: object, least: int) -> bool:
    return type(value) is int and value >= least
