"""Specs: canonical JSON, fingerprint and field-by-field difference. Pure; knows not where specs are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

FINGERPRINT_DIGITS: Final = 32  # 128 bits: two specs never meet by chance
_SHOWN_CHARACTERS: Final = 80  # of one value in a message: enough for a digest or a path


class Absent(Enum):
    """The value of a field that one of the two specs does not have."""

    ABSENT = "(absent)"


ABSENT: Final = Absent.ABSENT
JSON: TypeAlias = Any  # what `json` reads and writes


def canonical_json(obj: JSON) -> bytes:
    """UTF-8 JSON with sorted keys, no spaces, no NaN and no infinity: equal values give equal bytes.

    Raises TypeError for a key that is no string or a value that JSON has no word for, ValueError for NaN and
    infinity. A tuple counts as a list.
    """
    _refuse_other_keys(obj)
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def fingerprint(spec: Mapping[str, JSON]) -> str:
    """The first 32 hex digits of the SHA-256 of the canonical JSON of `spec`."""
    return hashlib.sha256(canonical_json(dict(spec))).hexdigest()[:FINGERPRINT_DIGITS]


@dataclass(frozen=True)
class Difference:
    """One field (dotted path) that differs, with both values; ABSENT where a side lacks it."""

    field: str
    old: JSON
    new: JSON

    def __str__(self) -> str:
        return f"{self.field} was {_shown(self.old)}, is now {_shown(self.new)}"


def differences(old: Mapping[str, JSON], new: Mapping[str, JSON]) -> list[Difference]:
    """Every field in which `new` differs from `old`, nested objects field by field, sorted by path."""
    found: list[Difference] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key, ABSENT), new.get(key, ABSENT)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += [Difference(f"{key}.{inner.field}", inner.old, inner.new) for inner in differences(before, after)]
        elif not _same(before, after):
            found.append(Difference(key, before, after))
    return found


def listed(changed: Sequence[Difference]) -> str:
    """All of `changed` in one line, for a message."""
    return ", ".join(str(difference) for difference in changed)


def _same(before: JSON, after: JSON) -> bool:
    """Whether two values have the same canonical JSON; `==` would take 1, 1.0 and true for equal."""
    if before is ABSENT or after is ABSENT:
        return before is after
    return canonical_json(before) == canonical_json(after)


def _shown(value: JSON) -> str:
    text = value.value if isinstance(value, Absent) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def _refuse_other_keys(obj: JSON) -> None:
    """Raise TypeError for keys that are no strings: `json` would turn 1 and "1" into the same key."""
    if isinstance(obj, Mapping):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"a key of a spec must be a string, not {key!r}")
            _refuse_other_keys(value)
    elif isinstance(obj, list | tuple):
        for value in obj:
            _refuse_other_keys(value)
