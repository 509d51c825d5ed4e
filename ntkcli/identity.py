"""Which model, which adapter: where its files lie and the digests that stand for them in every spec.

Reads files only and never loads weights or torch, so that a finished command returns at once.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import store
from ntkcli.digests import EXACT, Watch, cache_dir, digest_file
from ntkcli.errors import SpecError, UsageError, require_text
from ntkcli.model_files import TOKENIZER_FILES, check_adapter, check_model, read_json, refuse_pointer
from ntkcli.paths import home

__all__ = [
    "BASE_RECORD",
    "CONVERTED_RECORD",
    "EXACT",
    "AdapterIdentity",
    "ModelIdentity",
    "converted_folder",
    "converters",
    "digest_file",
    "is_converted",
    "refuse_other_base",
    "resolve_adapter",
    "resolve_model",
]

CONVERSION = 1
"""Of our own conversion of GGUF files, in the name of its folder: goes up when the same file gives other weights."""

CONVERTED_RECORD = "ntksel-converted.json"
"""In the folder of a converted GGUF file: what it was made from, by what, and the digests of its files."""

CONVERTED_FILES = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json")
"""What a fast tokenizer is made of where there is no tokenizer.json."""

_ADAPTER_VALUES = (
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "use_dora",
)
"""What of `adapter_config.json` changes the adapted model; the rest is a record of how it was trained."""
_ADAPTER_VARIANTS = (
    "init_lora_weights",
    "lora_bias",
    "alpha",
    "target_parameters",
    "layer_replication",
    "trainable_token_indices",
    "use_qalora",
    "qalora_group_size",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
"""What else changes it where it is given: left out where it has no effect, so that plain adapters' digests stay."""
_HARMLESS_STARTS = ("gaussian", "eva", "orthogonal")
"""Of `init_lora_weights`: values that only the first A and B depend on."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A model's files, by content.

    `reference` is what the user gave; `folder` holds the files; `gguf` is the file's name when the model is
    one GGUF file; `spec` holds hex digests and goes into every spec as `model`. `trust_remote_code`: code in the folder
    may be run; its digest is in the spec as `remote_code`. `watch` is on all its files: whoever has loaded them
    asks it whether they are still those of the digests.
    """

    reference: str
    folder: Path
    gguf: str | None
    spec: dict[str, str]
    trust_remote_code: bool = False
    watch: Watch = field(default_factory=Watch, compare=False, repr=False)

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"--model {self.reference}"

    @property
    def brings_code(self) -> bool:
        """Whether its configuration or tokenizer names classes of its own."""
        return any(_names_code(self.folder / name) for name in ("config.json", "tokenizer_config.json"))


@dataclass(frozen=True, slots=True)
class AdapterIdentity:
    """An adapter's folder and the digests of its weights and configuration (`spec`, hex)."""

    folder: Path
    spec: dict[str, str]
    base_weights: str | None
    """Digest of the base model's weights it was trained on, when `ntksel finetune` made it."""
    watch: Watch = field(default_factory=Watch, compare=False, repr=False)


def converted_folder(identity: ModelIdentity) -> Path | None:
    """Where the model of a GGUF file is in transformers' own format once it has been converted.

    The name holds the file's digest and the versions of what converts it. None where the user has no cache folder.
    """
    folder = cache_dir()
    if folder is None:
        return None
    key = {"weights": identity.spec["weights"], **converters()}
    return folder / "models" / store.fingerprint(key)


def is_converted(folder: Path) -> bool:
    """Whether a folder holds a whole conversion: a record, and just the files that it names, with their digests."""
    try:
        files = json.loads((folder / CONVERTED_RECORD).read_bytes())["files"]
        if {path.name for path in folder.iterdir()} != {CONVERTED_RECORD, *files}:
            return False
        return bool(files) and all(digest_file(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def converters() -> dict[str, Any]:
    """The versions of what converts a GGUF file."""
    found: dict[str, Any] = {"conversion": CONVERSION}
    for package in ("transformers", "gguf"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def resolve_model(reference: str, *, trust_remote_code: bool = False) -> ModelIdentity:
    """The model at a folder, a GGUF file or a Hub id (`org/name[@revision]`), with its digests.

    Nothing of it is run here. `trust_remote_code` lets the engine run what it brings, and the spec says so.

    Raises:
        UsageError: there is no such model, or a file of it is missing, cut or damaged.
    """
    require_text(reference)
    path, label, watch = Path(home(reference)), f"--model {reference}", Watch()
    if path.suffix == ".gguf":
        return _gguf(path, reference, watch)
    folder = path if path.is_dir() else _download(reference, code=trust_remote_code)
    for name in ("config.json", "generation_config.json", *TOKENIZER_FILES):
        watch.add(folder / name)
    weights = check_model(folder, label=label)
    names = TOKENIZER_FILES if (folder / "tokenizer.json").is_file() else (*TOKENIZER_FILES, *CONVERTED_FILES)
    tokenizer = [folder / name for name in names if (folder / name).is_file()]
    spec = {
        "weights": _digest_files(weights, watch),
        "config": _digest_config(folder, label),
        "tokenizer": _digest_files(tokenizer, watch),
    }
    identity = ModelIdentity(reference, folder, None, spec, trust_remote_code, watch)
    if trust_remote_code and identity.brings_code:
        spec["remote_code"] = _digest_files(sorted(folder.glob("*.py")), watch)
    return identity


def _gguf(path: Path, reference: str, watch: Watch) -> ModelIdentity:
    label = f"--model {reference}"
    if not path.is_file():
        raise UsageError(f"{label}: no such file.", "Give the path of a GGUF file.")
    refuse_pointer(path, label=label)
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UsageError(f"{label}: the file does not begin as a GGUF file does.", "Download it again.")
    digest = watch.digest(path)
    spec = {"weights": digest, "config": digest, "tokenizer": digest}
    return ModelIdentity(reference, path.parent, path.name, spec, watch=watch)


def end_of_text_spec(model: ModelIdentity) -> dict[str, list[int]]:
    """What the model's generation_config.json changes in a generated answer: the tokens that end it, for the spec.

    Nothing else of that file is followed (`ntkcli.engine.evaluation.generation`). Where there is none, config.json
    counts, whose digest is in the spec.
    """
    try:
        values = json.loads((model.folder / "generation_config.json").read_text(encoding="utf-8"))
        found = None if model.gguf else values.get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return {}
    tokens = found if isinstance(found, list) else [found]
    ids = sorted(token for token in tokens if isinstance(token, int))
    return {"eos_token_id": ids} if ids else {}


def embedding_rows(identity: ModelIdentity) -> int | None:
    """Rows of the model's embedding table, if its tokenizer has tokens beyond; by its files, else None."""
    config, tokenizer = (_read_json(identity.folder / name) for name in ("config.json", "tokenizer.json"))
    rows = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    added = [token.get("id") for token in tokenizer.get("added_tokens") or ()]
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or ()
    tokens = max([len(vocabulary), *(number + 1 for number in added if isinstance(number, int))])
    return rows if identity.gguf is None and isinstance(rows, int) and tokens > rows else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def resolve_adapter(reference: str, *, adapters: Path, option: str = "--adapter") -> AdapterIdentity:
    """The adapter of a run in this store (`adapters/<run>`), else the one in a folder of that name.

    Raises:
        UsageError: neither exists, the folder holds no PEFT adapter, or a file of it is cut or damaged.
    """
    require_text(reference)
    candidates = [Path(home(reference))]
    if "/" not in reference and os.sep not in reference:
        candidates.insert(0, adapters / reference)
    for folder in candidates:
        config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
        if config.is_file() and weights.is_file():
            watch = Watch()
            watch.add(config)
            values = check_adapter(folder, label=f"{option} {reference}")
            kept = {key: values[key] for key in _ADAPTER_VALUES if key in values}
            kept |= {key: values[key] for key in _ADAPTER_VARIANTS if _changes_model(key, values.get(key), values)}
            spec = {"weights": watch.digest(weights), "config": store.fingerprint(kept)}
            return AdapterIdentity(folder, spec, _base_weights(folder), watch)
    raise UsageError(
        f"{option} {reference}: no finished run of that name in the store and no folder with adapter_config.json "
        "and adapter_model.safetensors.",
        "Make one with `ntksel finetune`, or give the folder of a PEFT adapter.",
    )


def _changes_model(key: str, value: Any, values: dict[str, Any]) -> bool:
    if key == "init_lora_weights":  # some are subtracted from the base model's weights at every load
        return isinstance(value, str) and value.lower() not in _HARMLESS_STARTS
    if key == "qalora_group_size":
        return bool(values.get("use_qalora"))
    return bool(value)


def is_plain_lora(adapter: AdapterIdentity) -> bool:
    """Whether the adapter's configuration is that of plain LoRA: factors that are added to weights, and no more."""
    values = _read_json(adapter.folder / "adapter_config.json")
    others = ("use_dora", "modules_to_save", *_ADAPTER_VARIANTS)
    return not any(_changes_model(key, values.get(key), values) for key in others)


def refuse_other_base(adapter: AdapterIdentity, model: ModelIdentity) -> None:
    """Raise SpecError if the adapter's record says that it was trained on other weights than the model's."""
    if adapter.base_weights and adapter.base_weights != model.spec["weights"]:
        raise SpecError(
            f"The adapter {adapter.folder} was trained on a base model with weights {adapter.base_weights[:12]}, "
            f"but --model {model.reference} has {model.spec['weights'][:12]}.",
            "Give --model the model it was trained on.",
        )


BASE_RECORD = "ntksel.json"
"""Beside an adapter that `ntksel finetune` made: the digest of the base model it belongs to."""


def _base_weights(folder: Path) -> str | None:
    try:
        record = json.loads((folder / BASE_RECORD).read_text(encoding="utf-8"))
        return str(record["model"]["weights"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _names_code(path: Path) -> bool:
    return bool(_read_json(path).get("auto_map"))


def _digest_files(paths: list[Path], watch: Watch) -> str:
    return store.fingerprint({path.name: watch.digest(path) for path in paths})


def _digest_config(folder: Path, label: str) -> str:
    """The configuration without what says where it came from."""
    values = read_json(folder / "config.json", label=label)
    return store.fingerprint({k: v for k, v in values.items() if k not in ("_name_or_path", "transformers_version")})


def _download(reference: str, *, code: bool) -> Path:
    """The local snapshot of a Hub id; fetched when the Hub can be reached, else from the Hub's own cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = reference.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UsageError(
            f"--model {reference}: no such folder or file.",
            "Give a model folder, a GGUF file or a Hub id (org/name).",
        )
    try:
        patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", *CONVERTED_FILES]
        patterns += ["*.py"] if code else []
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, PermissionError) or getattr(error, "errno", None) in (errno.EROFS, errno.ENOSPC):
            raise UsageError(
                f"--model {reference}: the Hub's cache can't be written ({error}).",
                "Set HF_HOME to a folder that can be written, or give a local folder.",
            ) from error
        raise UsageError(
            f"--model {reference}: no such folder, and the Hub does not give it ({type(error).__name__}).",
            "Check the name and the connection, or give a local folder.",
        ) from error
