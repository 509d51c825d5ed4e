"""Is a model's or an adapter's folder whole: what a broken download leaves is named before anything is loaded.

Reads headers and small files only, and never imports torch. Must not know what a configuration means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ntkcli.errors import UsageError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""All that can change which tokens a text becomes; missing ones count as missing."""

AGAIN = "Download or copy it again."
_POINTER = b"version https://git-lfs.github.com/spec/"
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""One of these holds the tokens, as a rule; they may be large."""
_INDEX = "model.safetensors.index.json"


def check_model(folder: Path, *, label: str) -> list[Path]:
    """The weights' files of a model's folder, sorted. `label` is the option with its value (`--model X`).

    Raises:
        UsageError: a file is missing, cut, empty or a Git LFS pointer; it names the file.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{label}: the folder has no config.json, so it is not a model.",
            "Give a folder made by save_pretrained, a GGUF file or a Hub id.",
        )
    read_json(folder / "config.json", label=label)
    if (folder / "generation_config.json").is_file():
        read_json(folder / "generation_config.json", label=label)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UsageError(
            f"{label}: the folder has a config.json but no *.safetensors weights.",
            "Give the folder that has them; pickled weights (*.bin) are not loaded, convert them first.",
        )
    _check_index(folder, label)
    for path in weights:
        check_weights(path, label=label)
    check_tokenizer(folder, label=label)
    return weights


def check_tokenizer(folder: Path, *, label: str) -> None:
    """Raise UsageError if a file of the tokenizer is a pointer or (the largest apart) no JSON."""
    for path in (folder / name for name in TOKENIZER_FILES):
        if not path.is_file():
            continue
        if path.suffix == ".json" and path.name not in _VOCABULARIES:
            read_json(path, label=label)
        else:
            refuse_pointer(path, label=label)


def why_tokenizer_fails(folder: Path, error: Exception, *, label: str) -> UsageError:
    """What to report where a library can't load a tokenizer: a damaged or missing file, else the library's reason."""
    found = [name for name in _VOCABULARIES if (folder / name).is_file()]
    try:
        for name in found:
            if name.endswith(".json"):
                read_json(folder / name, label=label)
    except UsageError as damaged:
        return damaged
    if not found:
        return UsageError(
            f"{label}: {folder} has no tokenizer that can be loaded (none of {', '.join(_VOCABULARIES)}).",
            "Copy the tokenizer's files into it, or save it there with tokenizer.save_pretrained(FOLDER).",
        )
    return UsageError(f"{label}: its tokenizer can't be loaded: {reason_of(error)}.", "Download its files again.")


def check_adapter(folder: Path, *, label: str) -> dict[str, Any]:
    """The configuration of a PEFT adapter's folder. UsageError if it or the weights' file is damaged."""
    config = read_json(folder / "adapter_config.json", label=label)
    if not isinstance(config.get("peft_type"), str):
        raise UsageError(
            f"{label}: {folder / 'adapter_config.json'} has no peft_type, so this is not a PEFT adapter.", AGAIN
        )
    check_weights(folder / "adapter_model.safetensors", label=label)
    return config


def read_json(path: Path, *, label: str) -> dict[str, Any]:
    """The object in a JSON file. UsageError if there is none, with what there is instead."""
    data = path.read_bytes()
    _refuse_pointer(path, data, label)
    if not data.strip():
        raise UsageError(f"{label}: {path} is empty.", AGAIN)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UsageError(f"{label}: {path} is cut or damaged, it is not valid JSON ({error}).", AGAIN) from error
    if not isinstance(value, dict):
        raise UsageError(f"{label}: {path} holds a {type(value).__name__}, expected a JSON object.", AGAIN)
    return value


def check_weights(path: Path, *, label: str) -> None:
    """Raise UsageError if a safetensors file is not as long as its header says, or has none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        _refuse_pointer(path, start, label)
        if size < 8:
            raise UsageError(f"{label}: {path} is {f'cut after {size} bytes' if size else 'empty'}.", AGAIN)
        length = int.from_bytes(start[:8], "little")
        damaged = UsageError(f"{label}: {path} is not a safetensors file, its header is damaged.", AGAIN)
        if length > size - 8:
            if start[8:9] == b"{":
                raise UsageError(f"{label}: {path} is cut within its header ({size:,} bytes).", AGAIN)
            raise damaged
        file.seek(8)
        header = file.read(length)
    try:
        tensors = json.loads(header)
        ends = [int(one["data_offsets"][1]) for name, one in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise damaged from error
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise UsageError(f"{label}: {path} is cut: it has {size:,} of {expected:,} bytes.", AGAIN)


def refuse_pointer(path: Path, *, label: str) -> None:
    """Raise UsageError if the file is a Git LFS pointer: what a clone without LFS leaves in the place of a file."""
    with path.open("rb") as file:
        _refuse_pointer(path, file.read(64), label)


def reason_of(error: Exception) -> str:
    """The first line of what a library reports, without its full stop; its class where it reports nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:300].rstrip(". ") if text else type(error).__name__


def _refuse_pointer(path: Path, start: bytes, label: str) -> None:
    if start.startswith(_POINTER):
        raise UsageError(
            f"{label}: {path} is a Git LFS pointer, not the file itself.",
            f"Run `git lfs pull` in {path.parent}, or download the file.",
        )


def _check_index(folder: Path, label: str) -> None:
    """Refuse a sharded model of which a shard, or the index itself, is missing."""
    index = folder / _INDEX
    if (folder / "model.safetensors").is_file():
        return  # what transformers loads, whatever lies beside it
    if not index.is_file():
        raise UsageError(
            f"{label}: {folder} has neither model.safetensors nor {_INDEX}, which names the files of its parts.",
            "Download the missing file.",
        )
    shards = read_json(index, label=label).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UsageError(f"{label}: {index} names no files (no weight_map).", AGAIN)
    missing = sorted({str(name) for name in shards.values() if not (folder / str(name)).is_file()})
    if missing:
        raise UsageError(
            f"{label}: {folder} lacks {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''} "
            f"({len(missing)} of {len(set(shards.values()))} files that its index names).",
            "Download the missing files.",
        )
