"""Entries of LLaMA-Factory's dataset_info.json: read like the same rows under known columns, or refused in words."""

from __future__ import annotations

import json

import pytest

from ntkcli.data import DataFile, scan
from ntkcli.data.find_source import names_data
from ntkcli.errors import DataError, UsageError

TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
ENTRIES = {
    "plain": {"file_name": "alpaca.json"},
    "own": {"file_name": "own.json", "columns": {"prompt": "q", "query": "x", "response": "a", "history": None}},
    "chat": {"file_name": "chat.json", "formatting": "sharegpt", "columns": {"messages": "dialogue"}, "tags": TAGS},
    "folder": {"file_name": "deep", "split": "test"},
    "hub": {"hf_hub_url": "org/name", "subset": "config"},
    "ranked": {"file_name": "alpaca.json", "ranking": True},
    "image": {"file_name": "alpaca.json", "columns": {"images": "i"}},
    "tag": {"file_name": "chat.json", "formatting": "sharegpt", "tags": {"user_tag": "alien"}},
    "format": {"file_name": "alpaca.json", "formatting": "openai2"},
    "sampled": {"file_name": "alpaca.json", "num_samples": 5},
    "nowhere": {},
    "gone": {"file_name": "gone.json"},
}


@pytest.fixture
def info(tmp_path):
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps(ENTRIES))
    (tmp_path / "alpaca.json").write_text(json.dumps([{"instruction": "Q", "input": "x", "output": "A"}]))
    (tmp_path / "own.json").write_text(json.dumps([{"q": "Q", "x": "x", "a": "A"}]))
    (tmp_path / "chat.json").write_text(json.dumps([{"dialogue": TURNS}]))
    (tmp_path / "deep").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"deep/{split}.json").write_text(json.dumps([{"instruction": split, "output": "A"}]))
    return path


def messages(reference):
    (row,) = DataFile(reference).rows()
    return [(message.role, message.content) for message in row.messages]


def test_entries(info):
    assert messages(f"{info}:plain") == messages(f"{info}:own") == [("user", "Q\nx"), ("assistant", "A")]
    assert messages(f"{info}:chat") == [("user", "Q"), ("assistant", "A")]
    assert messages(f"{info}:folder")[0] == ("user", "test")
    assert names_data(f"{info}:plain")
    assert DataFile(f"{info}:hub").reference == "org/name:config"


def test_an_entry_can_be_read_again_from_what_a_data_set_keeps(info):
    file = DataFile(f"{info}:own")
    again = DataFile(file.reference, columns=file.columns, split=file.split)
    assert scan(again, on_error="fail").digest == scan(file, on_error="fail").digest
    assert again.state() == file.state()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "has no entry 'none'. Give one of: plain, own,"),
        ("ranked", "holds preferences (ranking), not answers"),
        ("image", "has the column 'images', which is not read"),
        ("tag", "has the tag user_tag 'alien'. Known are human, user"),
        ("format", "has the formatting 'openai2'. Known are alpaca, sharegpt"),
        ("sampled", "has 'num_samples', which is not read. Leave it out"),
        ("nowhere", "has neither file_name nor hf_hub_url"),
        ("gone", "gone.json does not exist"),
    ],
)
def test_what_is_not_read_is_refused(info, name, reason):
    with pytest.raises(UsageError) as caught:
        DataFile(f"{info}:{name}")
    assert reason in str(caught.value)


@pytest.mark.parametrize(("content", "reason"), [("{", "is not JSON"), ("[]", "is not an object of entries")])
def test_a_broken_record(tmp_path, content, reason):
    (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(DataError, match=reason):
        DataFile(tmp_path / "dataset_info.json:x")
    with pytest.raises(UsageError, match="can't be read: No such file"):
        DataFile(tmp_path / "absent/dataset_info.json:x")
