"""Mixes by weight and rows held out: which rows, how often, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.data import Encoder
from ntkcli.errors import DataError, UsageError
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.rows import TrainingData, encode_training, parse_train, resolve_train
from tests.conftest import Writer, make_tokenizer, prompt_rows


def encode(
    tmp_path: Path, *train: str, seed: int = 0, hold_out: float = 0.0, hold_out_of: int | None = None, **given: Any
) -> TrainingData:
    stored = open_store(tmp_path / "s", create=True)
    how = {"columns": None, "split": None, "on_error": "fail", **given}
    sets = resolve_train(stored, train, **how)
    encoder = Encoder(make_tokenizer(), max_length=200)
    return encode_training(
        sets, encoder, seed=seed, hold_out=hold_out, on_error=how["on_error"], hold_out_of=hold_out_of
    )


def test_the_weight_is_what_follows_the_last_equals_sign(tmp_path: Path) -> None:
    assert parse_train("picked") == ("picked", 1.0)
    assert parse_train("picked=0.5") == ("picked", 0.5)
    assert parse_train("a=b.jsonl=2") == ("a=b.jsonl", 2.0)
    (tmp_path / "lr=2").touch()
    assert parse_train(str(tmp_path / "lr=2")) == (str(tmp_path / "lr=2"), 1.0)  # a file of that very name


@pytest.mark.parametrize("weight", ["0", "-1", "x", "nan", "inf", "500", ""])
def test_other_weights_are_refused(weight: str) -> None:
    with pytest.raises(UsageError, match=r"is not a valid weight. Give a number above 0 .*ntksel select -n"):
        parse_train(f"picked={weight}")


def uses(data: TrainingData) -> Counter[str]:
    return Counter(data.names[i].partition("(")[2] for i in data.train)


@pytest.mark.parametrize("times", ["0.3", "1", "1.3", "2"])
def test_rows_come_as_often_as_the_weight_says(times: str, tmp_path: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(20))
    found = uses(encode(tmp_path, f"{data}={times}"))
    expected = {"0.3": {1: 6}, "1": {1: 20}, "1.3": {1: 14, 2: 6}, "2": {2: 20}}[times]
    assert Counter(found.values()) == expected
    assert found == uses(encode(tmp_path, f"{data}={times}"))


def test_draws_depend_on_the_seed_and_nest(tmp_path: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(40))
    few, many, other = (
        set(uses(encode(tmp_path, f"{data}={t}", seed=s))) for t, s in (("0.25", 0), ("0.5", 0), ("0.5", 1))
    )
    assert few < many
    assert many != other


def test_sets_keep_their_order_and_counts(tmp_path: Path, write_jsonl: Writer) -> None:
    a, b = write_jsonl("a.jsonl", prompt_rows(6, seed=1)), write_jsonl("b.jsonl", prompt_rows(4, seed=2))
    data = encode(tmp_path, f"{a}=0.5", str(b))
    assert data.sets == [3, 4]
    assert ["a.jsonl" in data.names[i] for i in data.train] == [True] * 3 + [False] * 4


def test_rows_held_out_are_never_trained_on_nor_their_copies(tmp_path: Path, write_jsonl: Writer) -> None:
    rows = prompt_rows(40)
    a = write_jsonl("a.jsonl", rows)
    b = write_jsonl("b.jsonl", [{**row, "id": f"copy-{row['id']}"} for row in rows[:20]])
    data = encode(tmp_path, str(a), f"{b}=3", hold_out=0.2)
    content = [row.ids.tobytes() for row in data.rows]
    assert 12 <= len(data.held_out) <= 13  # a fifth of 60; copies go together
    assert not {content[i] for i in data.held_out} & {content[i] for i in data.train}
    assert len(data.train) == sum(3 if "copy" in data.names[i] else 1 for i in range(60) if i not in data.held_out)
    again = encode(tmp_path, str(a), f"{b}=3", hold_out=0.2)
    assert (again.held_out == data.held_out).all()


def test_rows_held_out_of_one_set_are_the_same_whatever_else_is_trained_on(tmp_path: Path, write_jsonl: Writer) -> None:
    rows = prompt_rows(40, seed=1)
    a = write_jsonl("a.jsonl", rows)
    copies = write_jsonl("copies.jsonl", [{**row, "id": f"copy-{row['id']}"} for row in rows])
    others = write_jsonl("b.jsonl", prompt_rows(15, seed=2))
    held = []
    for sets, seed in (((f"{a}=2",), 0), ((f"{a}=2", str(others)), 0), ((f"{a}=2", str(copies)), 3)):
        data = encode(tmp_path, *sets, hold_out=0.2, hold_out_of=0, seed=seed)
        content = [row.ids.tobytes() for row in data.rows]
        held.append(sorted(content[i] for i in data.held_out))
        assert all("a.jsonl" in data.names[i] for i in data.held_out)
        assert not {content[i] for i in data.held_out} & {content[i] for i in data.train}
    assert 8 <= len(held[0]) <= 9
    assert held[0] == held[1] == held[2]
    plain = encode(tmp_path, f"{a}=2", str(others), hold_out=0.2, seed=3)
    assert sorted(plain.rows[i].ids.tobytes() for i in plain.held_out) != held[0]


def test_bad_rows_are_skipped_or_not_drawn(tmp_path: Path, write_jsonl: Writer) -> None:
    data = write_jsonl("d.jsonl", ["{", *prompt_rows(10)])
    assert encode(tmp_path, str(data), on_error="skip").skipped == 1
    half = encode(tmp_path, f"{data}=0.5", on_error="skip")
    assert (len(half.train), half.skipped) == (5, 0)


def test_too_small_sets(tmp_path: Path, write_jsonl: Writer) -> None:
    one = write_jsonl("d.jsonl", prompt_rows(1))
    with pytest.raises(DataError, match=r"d.jsonl=0.1: that share draws none of its rows. Give a larger one"):
        encode(tmp_path, f"{one}=0.1")
    with pytest.raises(DataError, match=r"--hold-out 0.5: of the 1 rows .* none are left to train on"):
        encode(tmp_path, str(one), hold_out=0.5)
    assert np.array_equal(encode(tmp_path, str(one)).train, [0])
