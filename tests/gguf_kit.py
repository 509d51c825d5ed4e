"""A tiny Llama as a GGUF file, written with the package gguf."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

HIDDEN, INNER, LAYERS, HEADS = 32, 64, 1, 2


def write_gguf(path: Path, *, seed: int = 0) -> Path:
    """A Llama of one block in float32 with a byte-level BPE tokenizer."""
    gguf = pytest.importorskip("gguf")
    from tokenizers import pre_tokenizers

    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b"])
    for kind in ("bos", "eos", "pad"):
        getattr(writer, f"add_{kind}_token_id")(0)
    shapes = {"token_embd": (len(tokens), HIDDEN), "output": (len(tokens), HIDDEN), "output_norm": (HIDDEN,)}
    for i in range(LAYERS):
        square = dict.fromkeys((f"blk.{i}.attn_{x}" for x in ("q", "k", "v", "output")), (HIDDEN, HIDDEN))
        norms = dict.fromkeys((f"blk.{i}.attn_norm", f"blk.{i}.ffn_norm"), (HIDDEN,))
        mlp = {f"blk.{i}.ffn_gate": (INNER, HIDDEN), f"blk.{i}.ffn_up": (INNER, HIDDEN)}
        shapes |= square | norms | mlp | {f"blk.{i}.ffn_down": (HIDDEN, INNER)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
