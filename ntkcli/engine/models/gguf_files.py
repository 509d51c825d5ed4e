"""Write a model of the Llama family as a GGUF file, for llama.cpp: names, order of rows and tokenizer as it has them.

Only what can be written without a guess: other architectures, scalings of positions and tokenizers are refused by name,
before anything is merged. The package gguf has the names of tensors and of metadata.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from ntkcli.engine.models.gguf_tokenizer import CONVERT, add_tokenizer, tokenizer_kind
from ntkcli.errors import UsageError
from ntkcli.progress import counted_below

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
"""What llama.cpp computes as its architecture `llama`."""
_ROPES = ("default", "linear", "llama3")


def refuse_unsupported(folder: Path, *, label: str) -> None:
    """UsageError, with the name of what is not supported, unless the model in the folder can be written."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UsageError("--gguf needs the package gguf.", "pip install 'ntksel[gguf]'") from error
    config = json.loads((folder / "config.json").read_bytes())
    names = config.get("architectures") or ["an unnamed architecture"]
    if names[0] not in ARCHITECTURES:
        raise UsageError(f"--gguf: {label} is {names[0]}, expected {' or '.join(ARCHITECTURES)}.", CONVERT)
    rope = _rope(config)
    if rope["rope_type"] not in _ROPES:
        raise UsageError(f"--gguf: {label} scales its positions by {rope['rope_type']}.", CONVERT)
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(f"--gguf: {label} has no tokenizer.json.", CONVERT)
    tokenizer_kind(json.loads((folder / "tokenizer.json").read_bytes()), label=label)


def write_gguf(folder: Path, path: Path, *, name: str, dtype: str) -> None:
    """Write the model in `folder` (transformers' own format, checked by `refuse_unsupported`) to the new file `path`.

    Matrices are in `dtype`, vectors in float32; one tensor at a time is in memory. The file is not synced.
    """
    import gguf

    writer, tensors = _described(folder, path, name=name, dtype=dtype)
    for tensor, raw in counted_below(tensors, f"writing {path.name}", len(tensors), unit="tensors"):
        writer.write_tensor_data(gguf.quants.quantize(tensor.read(), raw))
    writer.close()


def gguf_size(folder: Path, *, name: str, dtype: str) -> int:
    """The bytes of the file that `write_gguf` makes of the folder, by its description and the tensors' shapes."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.gguf"
        writer, _ = _described(folder, path, name=name, dtype=dtype)
        writer.close()
        parts = [path.stat().st_size, *(each.nbytes for some in writer.tensors for each in some.values())]
    return sum(writer.ggml_pad(part, writer.data_alignment) for part in parts)


def _described(folder: Path, path: Path, *, name: str, dtype: str) -> tuple[Any, list[tuple[_Tensor, Any]]]:
    """A writer that has written all but the tensors' numbers, and the tensors in the order of the file."""
    import gguf

    config = json.loads((folder / "config.json").read_bytes())
    writer = gguf.GGUFWriter(str(path), "llama")
    kind = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}[dtype]
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[kind])
    _add_shape(writer, config)
    add_tokenizer(writer, folder, rows=config["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    tensors = list(_tensors(folder, config, names, dtype))
    for tensor, raw in tensors:
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, raw) if raw == _raw("bfloat16") else tensor.shape
        numbers = np.dtype({"F32": np.float32, "F16": np.float16, "BF16": np.uint8}[raw.name])
        size = int(np.prod(shape)) * numbers.itemsize
        writer.add_tensor_info(tensor.name, shape, numbers, size, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer, tensors


def _raw(dtype: str) -> Any:
    import gguf

    return gguf.GGMLQuantizationType[{"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]]


class _Tensor:
    """A tensor of the file: its name and shape there, and its float32 numbers when they are asked for."""

    def __init__(self, name: str, shape: tuple[int, ...], path: Path, key: str, heads: int | None) -> None:
        self.name, self.shape = name, shape
        self._path, self._key, self._heads = path, key, heads

    def read(self) -> NDArray[np.float32]:
        """The numbers, rows of queries and keys in llama.cpp's order: of each head the two halves interleaved."""
        with safe_open(self._path, framework="pt") as file:
            values: NDArray[np.float32] = file.get_tensor(self._key).float().numpy()
        if self._heads is None:
            return values
        halves = values.reshape(self._heads, 2, self.shape[0] // self._heads // 2, *self.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(self.shape))


class _RopeFactors(_Tensor):
    """What Llama 3.1 divides its frequencies by, (head size / 2,)."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        super().__init__("rope_freqs.weight", values.shape, Path(), "", None)
        self._values = values

    def read(self) -> NDArray[np.float32]:
        """The factors."""
        return self._values


def _tensors(folder: Path, config: dict[str, Any], names: Any, dtype: str) -> Iterator[tuple[_Tensor, Any]]:
    """All tensors in the order of the file, with their number formats."""
    if (factors := rope_factors(config)) is not None:
        yield _RopeFactors(factors), _raw("float32")
    heads = {"attn_q": config["num_attention_heads"]}
    heads["attn_k"] = config.get("num_key_value_heads") or heads["attn_q"]
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  # no dict
        for key, shape in shapes.items():
            if key.endswith("rotary_emb.inv_freq") or (key == "lm_head.weight" and config.get("tie_word_embeddings")):
                continue
            found = names.get_name(key, try_suffixes=(".weight", ".bias"))
            if found is None:
                raise UsageError(f"--gguf: llama.cpp has no name for the weight {key}.", CONVERT)
            kind = next((part for part in found.split(".") if part in heads), "")
            yield _Tensor(found, shape, path, key, heads.get(kind)), _raw(dtype if len(shape) > 1 else "float32")


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """How positions are turned: `rope_type`, `rope_theta` and what belongs to the type, by new and old names."""
    found = {**(config.get("rope_parameters") or config.get("rope_scaling") or {})}
    found["rope_type"] = str(found.get("rope_type") or found.get("type") or "default")
    found["rope_theta"] = float(found.get("rope_theta") or config.get("rope_theta") or 10000.0)
    return found


def rope_factors(config: dict[str, Any]) -> NDArray[np.float32] | None:
    """What each frequency is divided by where the scaling is Llama 3.1's, (head size / 2,) float32; else None."""
    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    size = _head_size(config)
    frequencies = rope["rope_theta"] ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    waves = 2 * np.pi / frequencies
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = (rope["original_max_position_embeddings"] / waves - low) / (high - low)
    share = np.clip(share, 0.0, 1.0)  # 0: long waves, divided whole; 1: short ones, left as they are
    factors: NDArray[np.float32] = (1 / ((1 - share) / rope["factor"] + share)).astype(np.float32)
    return factors


def _head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _add_shape(writer: Any, config: dict[str, Any]) -> None:
    import gguf

    heads, rope, size = config["num_attention_heads"], _rope(config), _head_size(config)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(size)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_vocab_size(config["vocab_size"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
