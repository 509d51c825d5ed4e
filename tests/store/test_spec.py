"""Specs, fingerprints and the refusal of another spec under the same name."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import ABSENT, ArraySpec, Difference, SpecDiffersError, Store, canonical_json, differences, fingerprint
from tests.store import kit

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=10,
)
SPECS = st.dictionaries(st.text("abc", max_size=3), VALUES, max_size=4)


def test_canonical_json_is_what_the_format_says() -> None:
    spec = {"b": [1, 2.5, None], "a": {"é": True}}
    assert canonical_json(spec) == '{"a":{"é":true},"b":[1,2.5,null]}'.encode()
    assert fingerprint(spec) == hashlib.sha256(canonical_json(spec)).hexdigest()[:32]


@pytest.mark.parametrize(
    ("spec", "error"), [({"a": float("nan")}, ValueError), ({"a": {1: 2}}, TypeError), ({"a": b""}, TypeError)]
)
def test_what_json_can_not_hold_is_refused(spec: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        fingerprint(spec)


@given(SPECS, SPECS)
def test_fingerprints_differ_exactly_where_fields_do(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert fingerprint(dict(reversed(old.items()))) == fingerprint(old)
    assert (differences(old, new) == []) == (fingerprint(old) == fingerprint(new))


def test_differences_name_nested_fields_with_both_values() -> None:
    old = {"model": {"name": "a", "rank": 1}, "gone": 1, "same": [1, 2]}
    new = {"model": {"name": "b", "rank": 1.0}, "come": None, "same": (1, 2)}
    assert differences(old, new) == [
        Difference("come", ABSENT, None),
        Difference("gone", 1, ABSENT),
        Difference("model.name", "a", "b"),
        Difference("model.rank", 1, 1.0),
    ]


def test_another_spec_is_refused_in_one_line_with_field_old_and_new(store: Store) -> None:
    kit.fill(kit.make(store))
    before = kit.tree(store.path)
    changed = {**kit.SPEC, "model": {"name": "smol", "digest": "def"}, "note": "two\nlines"}
    with pytest.raises(SpecDiffersError) as raised:
        kit.make(store, spec=changed)
    message = str(raised.value)
    assert 'model.digest was "abc", is now "def"' in message
    assert 'note was (absent), is now "two\\nlines"' in message
    assert "another name" in message
    assert "\n" not in message
    assert [difference.field for difference in raised.value.differences] == ["model.digest", "note"]
    assert kit.tree(store.path) == before
    assert copy.copy(raised.value).differences == raised.value.differences  # as when it crosses processes


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n": 11}, "n"),
        ({"parents": {"datasets/pool": "1" * 32}}, "parents.datasets/pool"),
        ({"arrays": {**kit.ARRAYS, "norm": ArraySpec("float64")}}, "arrays.norm.dtype"),
    ],
)
def test_what_must_agree_beside_the_spec(store: Store, change: dict[str, Any], field: str) -> None:
    kit.make(store)
    with pytest.raises(SpecDiffersError) as raised:
        kit.make(store, **change)
    assert [difference.field for difference in raised.value.differences] == [field]


def test_the_plan_and_part_rows_that_exist_win(store: Store) -> None:
    kit.make(store)
    again = kit.make(store, part_rows=2, plan={"batch_tokens": 1})
    assert (again.part_rows, again.plan) == (kit.PART_ROWS, {"batch_tokens": 4096})


def test_check_parents(store: Store) -> None:
    pool = kit.make(store, "features/pool/embed", parents={})
    child = kit.make(store, parents={pool.name: pool.fingerprint})
    store.check_parents(child)
    store.remove(pool.name)
    store.check_parents(child)  # what it was made from is gone, but nothing else
    kit.make(store, pool.name, parents={}, spec={"other": 1})
    with pytest.raises(SpecDiffersError, match="what features/pool/ntk was made from has changed"):
        store.check_parents(child)


def test_parents_of_parents_are_checked(store: Store) -> None:
    """A selection of a score of features that were made anew with other settings."""
    features = kit.make(store, parents={})
    one = {"n": 1, "part_rows": 1, "arrays": {"score": ArraySpec()}, "spec": {}}
    score = kit.make(store, "scores/s", kind="score", parents={features.name: features.fingerprint}, **one)
    chosen = kit.make(store, "selections/c", kind="selection", parents={score.name: score.fingerprint}, **one)
    store.check_parents(chosen)
    store.remove(features.name)
    store.check_parents(chosen)
    kit.make(store, parents={}, spec={"dim": 4})
    message = (
        rf"selections/c rests on scores/s, and what scores/s was made from has changed: {kit.NAME} was .*, is now .*; "
        rf"run `Store.open\('{store.path}'\).remove\('scores/s'\)` and then what makes scores/s again"
    )
    with pytest.raises(SpecDiffersError, match=message):
        store.check_parents(chosen)


def test_dependents_are_those_made_from_it(store: Store) -> None:
    pool = kit.make(store, "features/pool/embed", parents={})
    kit.make(store, parents={pool.name: pool.fingerprint})
    assert store.dependents(pool.name) == [kit.NAME]
    assert store.dependents(kit.NAME) == []
