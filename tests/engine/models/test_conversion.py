"""GGUF files: converted once, published whole, checked at every load, made again where damaged."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ntkcli import identity, notes
from ntkcli.engine.models import conversion
from ntkcli.engine.models.loading import load_model, model_config
from ntkcli.errors import NtkselError, UsageError
from ntkcli.identity import CONVERTED_RECORD, converted_folder, resolve_model
from store import atomic
from tests.gguf_kit import write_gguf


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NTKSEL_CACHE", str(folder))
    monkeypatch.setattr(conversion, "_THIS_RUN", {})
    monkeypatch.setattr(notes, "_SHOWN_WITHOUT_A_COMMAND", set())
    return folder


@pytest.fixture
def gguf(tmp_path: Path, cache: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf")


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_model(
        resolve_model(str(path)), dtype="float32", device="cpu"
    ).model.state_dict()
    return found


def test_the_weights_are_the_file_s(gguf: Path) -> None:
    import gguf as reader

    tensors = {tensor.name: tensor.data for tensor in reader.GGUFReader(gguf).tensors}
    found = weights_of(gguf)
    for ours, theirs in {"model.embed_tokens": "token_embd", "model.layers.0.mlp.down_proj": "blk.0.ffn_down"}.items():
        assert torch.equal(found[f"{ours}.weight"], torch.tensor(tensors[f"{theirs}.weight"]))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", CONVERTED_RECORD])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_conversion_is_made_again(gguf: Path, name: str, damage: str) -> None:
    model_config(resolve_model(str(gguf)))
    folder = converted_folder(resolve_model(str(gguf)))
    assert folder is not None
    path = folder / name
    whole = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        middle = len(whole) // 2
        path.write_bytes(
            whole[:middle] if damage == "cut" else whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        )
        os.utime(path, ns=(1, 1))
    model_config(resolve_model(str(gguf)))
    assert path.read_bytes() == whole


def test_nothing_is_published_before_it_is_durable(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the writing and the rename leaves no folder that counts; the rest is removed a day later."""
    found = resolve_model(str(gguf))
    folder = converted_folder(found)
    assert folder is not None
    synced: list[str] = []

    def fails(path: Path) -> None:
        synced.extend(sorted(each.name for each in path.iterdir()))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "fsync_tree", fails)
        with pytest.raises(KeyboardInterrupt):
            model_config(found)
    assert "model.safetensors" in synced
    assert CONVERTED_RECORD in synced
    assert not folder.exists()
    left = folder.parent / ".converting-killed"
    left.mkdir()
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    model_config(found)
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


def test_another_version_of_the_converter_converts_again(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve_model(str(gguf))
    model_config(found)
    first = converted_folder(found)
    for package in ("transformers", "gguf"):
        real = identity.metadata.version
        with monkeypatch.context() as patch:
            patch.setattr(identity.metadata, "version", lambda name, p=package, r=real: "99" if name == p else r(name))
            assert converted_folder(found) != first
    monkeypatch.setattr(identity, "CONVERSION", identity.CONVERSION + 1)
    assert converted_folder(found) != first
    model_config(found)
    folder = converted_folder(found)
    assert folder is not None
    record = json.loads((folder / CONVERTED_RECORD).read_bytes())
    assert record["converters"]["conversion"] == identity.CONVERSION


def test_without_a_cache_it_is_converted_for_this_run(
    gguf: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.joinpath("file").write_text("")
    monkeypatch.setenv("NTKSEL_CACHE", str(cache.parent / "file" / "cache"))
    assert weights_of(gguf)
    assert "the converted model is not kept" in caplog.text
    assert "NTKSEL_CACHE" in caplog.text


def test_what_it_takes_is_reported(gguf: Path, caplog: pytest.LogCaptureFixture) -> None:
    numbers = sum(tensor.numel() for tensor in weights_of(gguf).values())
    assert f"converting tiny.gguf takes {10 * numbers / 2**10:.1f} KiB of memory" in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_too_little_memory_is_named(model_dir: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(NtkselError, match=r"not enough memory to load it\. Give --dtype bfloat16"):
        load_model(resolve_model(str(model_dir)), dtype="float32", device="cpu")


def test_a_disk_without_room_is_named(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion.store, "free_bytes", lambda path: 1000)
    with pytest.raises(NtkselError, match=r"1000 B left.*NTKSEL_CACHE"):
        model_config(resolve_model(str(gguf)))


def test_a_cut_file_is_named(gguf: Path) -> None:
    gguf.write_bytes(gguf.read_bytes()[:20000])
    with pytest.raises(UsageError, match=r"tiny\.gguf: the file is cut or damaged"):
        model_config(resolve_model(str(gguf)))


@pytest.mark.parametrize("start", [b"version https://git-lfs.github.com/spec/v1\n", b"", b"GGML1234"])
def test_what_is_not_gguf_is_named(gguf: Path, start: bytes) -> None:
    gguf.write_bytes(start)
    with pytest.raises(UsageError, match=r"tiny\.gguf.*(Git LFS pointer|does not begin as a GGUF file does)"):
        resolve_model(str(gguf))


def test_a_file_exchanged_during_the_conversion_is_refused(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve_model(str(gguf))
    real = conversion._save

    def exchanged(identity: object, work: Path) -> None:
        write_gguf(gguf, seed=1)
        real(found, work)

    monkeypatch.setattr(conversion, "_save", exchanged)
    with pytest.raises(NtkselError, match="was changed while it was read"):
        model_config(found)
    folder = converted_folder(found)
    assert folder is not None
    assert not folder.exists()
