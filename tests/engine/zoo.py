"""Tiny random models of every architecture, made on the spot."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY = 97
_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_TIED = {"tie_word_embeddings": True}
_GEMMA = {**_LLAMA, **_TIED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
_NEOX = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"} | {"rotary_pct": 0.5}
_FALCON = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4} | {
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_SMALL_CAP = {"final_logit_softcapping": 1.5}  # so that the tiny models' logits feel it

DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _LLAMA),
    "llama_tied": ("llama", {**_LLAMA, **_TIED}),
    "llama_bias": ("llama", {**_LLAMA, "attention_bias": True, "mlp_bias": True}),
    "mistral_window": ("mistral", {**_LLAMA, "sliding_window": 4}),
    "qwen2_bias": ("qwen2", _LLAMA),
    "qwen2_tied": ("qwen2", {**_LLAMA, **_TIED}),
    "qwen3": ("qwen3", {**_LLAMA, "head_dim": 8}),
    "gemma": ("gemma", {**_LLAMA, **_TIED, "head_dim": 8}),
    "gemma2_softcap": ("gemma2", {**_GEMMA, **_SMALL_CAP, "attn_logit_softcapping": 2.0}),
    "gemma2_no_cap": ("gemma2", {**_GEMMA, "final_logit_softcapping": None, "attn_logit_softcapping": None}),
    "gemma3_text": ("gemma3_text", _GEMMA),
    "gemma3_text_softcap": ("gemma3_text", {**_GEMMA, **_SMALL_CAP}),
    "gemma3_images": ("gemma3", {}),
    "phi_head_bias": ("phi", {**_LLAMA, "partial_rotary_factor": 0.5}),
    "phi3_fused": ("phi3", _LLAMA),
    "phi4_fused": ("phi3", {**_LLAMA, "partial_rotary_factor": 0.75, **_TIED}),
    "gpt2_conv1d": (
        "gpt2",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "gptj_head_bias": (
        "gptj",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "gpt_neox_parallel": ("gpt_neox", {**_NEOX, "use_parallel_residual": True}),
    "gpt_neox_serial": ("gpt_neox", {**_NEOX, "use_parallel_residual": False}),
    "cohere_scaled": ("cohere", {**_LLAMA, **_TIED, "logit_scale": 0.25}),
    "cohere2_scaled": ("cohere2", {**_LLAMA, **_TIED, "logit_scale": 0.25, "sliding_window": 4}),
    "granite_divided": (
        "granite",
        {**_LLAMA, "logits_scaling": 8.0, "residual_multiplier": 0.3, "embedding_multiplier": 3.0},
    ),
    "recurrent_gemma_softcap": (
        "recurrent_gemma",
        {**_LLAMA, **_TIED, "num_hidden_layers": 3, "logits_soft_cap": 1.5, "attention_window_size": 8},
    ),
    "minicpm3_scaled_states": (
        "minicpm3",
        {**_LLAMA, "dim_model_base": 8, "q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 8}
        | {"qk_rope_head_dim": 4, "v_head_dim": 8, "num_key_value_heads": 4},
    ),
    "olmo2": ("olmo2", _LLAMA),
    "smollm3": ("smollm3", _LLAMA),
    "opt": ("opt", {**_LLAMA, "ffn_dim": 40, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt_alibi": (
        "mpt",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2},
    ),
}
"""Name → model type and configuration: an adapter may sit on every linear layer."""

EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {**_LLAMA, **_EXPERTS}),
    "qwen2_moe": ("qwen2_moe", {**_LLAMA, **_EXPERTS, "shared_expert_intermediate_size": 16}),
    "qwen3_moe": ("qwen3_moe", {**_LLAMA, **_EXPERTS, "head_dim": 8}),
    "gpt_oss": ("gpt_oss", {**_LLAMA, **_EXPERTS, "head_dim": 8, "sliding_window": 4, "attention_bias": True}),
}
"""Mixtures of experts: adapters on the attention alone."""
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon_alibi": ("falcon", {**_FALCON, "alibi": True}),
    "falcon_rotary": ("falcon", {**_FALCON, "alibi": False}),
}
"""For what needs no adapter: Falcon's linear layers are of a class of its own."""
ATTENTION = "q_proj,k_proj,v_proj,o_proj"


def build(name: str) -> Any:
    """The float32 model of that name, the same each time; biases and norms are random too, weights not small."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = {**DENSE, **EXPERTS, **MORE}[name]
    settings = _with_images() if name == "gemma3_images" else settings
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.2 * torch.randn(parameter.shape))
            else:
                parameter.mul_(4.0)
    return model.eval().requires_grad_(False)


def build_double(name: str) -> Any:
    """The same in float64, its attention and experts written out (no fused kernel)."""
    model = build(name).double()
    model.set_attn_implementation("eager")
    if name in EXPERTS:
        model.set_experts_implementation("eager")
    return model


def _with_images() -> dict[str, Any]:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {
        "text_config": {**_GEMMA, "model_type": "gemma3_text"},
        "vision_config": {**vision, "image_size": 28, "patch_size": 14, "model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 1,
    }
