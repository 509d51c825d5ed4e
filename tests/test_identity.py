"""Models and adapters by content: digests, the Hub's cache, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ntkcli.errors import UsageError
from ntkcli.identity import AdapterIdentity, digest_file, is_plain_lora, resolve_adapter, resolve_model


def test_a_copied_model_is_the_same_model(model_dir: Path, other_model_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved"
    shutil.copytree(model_dir, copy)
    assert resolve_model(str(copy)).spec == resolve_model(str(model_dir)).spec
    assert resolve_model(str(other_model_dir)).spec["weights"] != resolve_model(str(model_dir)).spec["weights"]
    assert resolve_model(str(other_model_dir)).spec["tokenizer"] == resolve_model(str(model_dir)).spec["tokenizer"]


def test_another_template_is_another_tokenizer(model_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "m"
    shutil.copytree(model_dir, copy)
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    before, after = resolve_model(str(model_dir)).spec, resolve_model(str(copy)).spec
    assert before["tokenizer"] != after["tokenizer"]
    assert before["weights"] == after["weights"]


@pytest.mark.parametrize("name", ["vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json"])
def test_a_vocabulary_counts_where_the_tokenizer_is_made_of_it(name: str, model_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "m"
    shutil.copytree(model_dir, copy)
    (copy / name).write_text("a")
    assert resolve_model(str(copy)).spec == resolve_model(str(model_dir)).spec  # tokenizer.json is read, not this
    (copy / "tokenizer.json").unlink()
    before = resolve_model(str(copy)).spec["tokenizer"]
    (copy / name).write_text("bc")
    assert resolve_model(str(copy)).spec["tokenizer"] != before


def test_a_changed_file_gets_a_new_digest(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = digest_file(path)
    assert digest_file(path) == first
    path.write_bytes(b"two!")
    assert digest_file(path) != first


def test_hub_id_from_the_hubs_own_cache(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real Hub code, offline, over a cache of the Hub's layout."""
    from huggingface_hub import constants

    revision = "0" * 40
    repository = tmp_path / "models--org--tiny"
    shutil.copytree(model_dir, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = resolve_model("org/tiny")
    assert found.spec == resolve_model(str(model_dir)).spec
    assert found.folder == repository / "snapshots" / revision
    with pytest.raises(UsageError, match=r"org/none: no such folder, and the Hub does not give it"):
        resolve_model("org/none")


def test_pickled_weights_are_refused(model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    shutil.copy(model_dir / "config.json", folder)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UsageError, match=r"no \*\.safetensors weights"):
        resolve_model(str(folder))


def empty_weights() -> bytes:
    """A safetensors file without tensors."""
    return (2).to_bytes(8, "little") + b"{}"


def test_adapter_digest_ignores_where_its_base_lay(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "/somewhere"}
    changed: dict[str, dict[str, object]] = {
        "a": {},
        "b": {"base_model_name_or_path": "/else", "init_lora_weights": "gaussian"},
        "c": {"lora_alpha": 9},
        "d": {"init_lora_weights": "pissa"},
    }
    for name, changes in changed.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        (folder / "adapter_model.safetensors").write_bytes(empty_weights())
    a, b, c, d = (resolve_adapter(str(tmp_path / name), adapters=tmp_path / "none").spec for name in "abcd")
    assert a == b
    assert a["weights"] == c["weights"]
    assert len({one["config"] for one in (a, c, d)}) == 3  # PiSSA is subtracted from the base at every load


@pytest.mark.parametrize(
    ("values", "plain"),
    [
        ({"r": 8, "init_lora_weights": True, "use_dora": False, "modules_to_save": None, "lora_bias": False}, True),
        ({"r": 8, "init_lora_weights": "gaussian"}, True),
        ({"r": 8, "init_lora_weights": "pissa"}, False),
        ({"r": 8, "use_dora": True}, False),
        ({"r": 8, "modules_to_save": ["lm_head"]}, False),
    ],
)
def test_plain_lora_by_its_configuration(values: dict[str, object], plain: bool, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    assert is_plain_lora(AdapterIdentity(tmp_path, {}, None)) is plain
