"""Files of a merged folder that programs with transformers 4 read as well, vLLM among them.

transformers 5 writes `rope_theta` and `rope_scaling` inside of `rope_parameters` only. Older readers don't look there,
and take their default instead, without an error. It also names a class of tokenizers that older versions don't have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

OLD_NAMES: Final = ("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor")
"""What the base model's own configuration may have beside `rope_parameters`."""
NEW_CLASS, OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
"""One class, by its names in transformers 5 and 4; transformers 5 knows both."""


def with_old_names(config: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the merged model, as transformers 5 wrote it, with the names of transformers 4 beside.

    `base`: the base model's own. Positions that differ by the kind of layer have old names only where `base` has them.
    """
    old: dict[str, Any] = {name: base[name] for name in OLD_NAMES if name in base}
    found = {**old, **config}
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        found.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            found.setdefault("rope_scaling", {key: rope[key] for key in rope if key not in OLD_NAMES})
        if "partial_rotary_factor" in rope:
            found.setdefault("partial_rotary_factor", rope["partial_rotary_factor"])
    if "dtype" in config:
        found["torch_dtype"] = config["dtype"]
    return found


def add_old_names(folder: Path, base: Path) -> None:
    """Write config.json and tokenizer_config.json of a merged folder so that both versions read the same."""
    _rewrite(folder / "config.json", lambda config: with_old_names(config, _read(base / "config.json")))
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file() and _read(tokenizer).get("tokenizer_class") == NEW_CLASS:
        _rewrite(tokenizer, lambda values: {**values, "tokenizer_class": OLD_CLASS})


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _rewrite(path: Path, change: Any) -> None:
    text = json.dumps(change(_read(path)), indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
