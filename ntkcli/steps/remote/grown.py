"""Artefacts that are longer on one side than on the other, because a pool grew: whose rows are the first of whose."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import store
from ntkcli.steps.remote.manifest import Manifest
from ntkcli.steps.remote.place import Place
from store import layout
from store.artefact import GREW
from store.layout import NODE_FILE

_TOKENS: Final = "tokens/"


def longer_there(place: Place, manifest: Manifest, have: Iterable[store.Artefact]) -> list[str]:
    """Of artefacts that a place has with other settings, those that grew there out of ours."""
    found = []
    for artefact in have:
        paths = [path for path in manifest.units[artefact.name].files if path.endswith(f"/{NODE_FILE}")]
        data = place.read(min(paths, key=len))  # the group's, above those of its arrays
        with suppress(ValueError, TypeError, LookupError):  # damaged: then nothing says that it grew
            grew = json.loads(data or b"")["attributes"][GREW]
            if artefact.fingerprint in [each["fingerprint"] for each in grew]:
                found.append(artefact.name)
    return found


def longer_here(manifest: Manifest, have: Iterable[store.Artefact]) -> list[str]:
    """Of artefacts that a place has with other settings, those that ours grew out of."""
    known = manifest.units
    return [each.name for each in have if each.rows_before(known[each.name].fingerprint or "") is not None]


def outgrown(manifest: Manifest, names: Iterable[str], grown: Iterable[str]) -> list[str]:
    """Token counts at a place that none of ours (`names`) replaces, of data sets that have grown since."""
    data = {name.partition("/")[2] for name in grown if layout.kind_of(name) == layout.Kind.DATASET}
    gone = set(manifest.units) - set(names)
    return sorted(name for name in gone if name.startswith(_TOKENS) and name.split("/")[1] in data)
