"""Where a loaded model computes: device and attention kernel, which can change a value by float rounding."""

from __future__ import annotations

import platform

import torch

from ntkcli.engine.models.loading import LoadedModel


def device_and_attention(loaded: LoadedModel) -> dict[str, str]:
    """The device by its model, without its number, and transformers' name for the attention kernel."""
    config = loaded.model.config.get_text_config()
    return {"device": device_name(loaded.device), "attention": str(getattr(config, "_attn_implementation", None))}


def device_name(device: torch.device) -> str:
    """`cuda NVIDIA H100 80GB HBM3`, or `cpu x86_64 AVX512`: what kernels are chosen by."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return device.type


def stop_tokens(loaded: LoadedModel, end_of_turn: int | None) -> list[int]:
    """What ends an answer: the end of turn of the chat template, the tokenizer's and the model's own end of text."""
    own = loaded.model.generation_config.eos_token_id if loaded.model.generation_config is not None else None
    found = [loaded.tokenizer.eos_token_id, end_of_turn, *(own if isinstance(own, list) else [own])]
    return sorted({int(token) for token in found if token is not None})


def generation_settings(loaded: LoadedModel) -> dict[str, object]:
    """How answers are written under this model: greedily, whatever its folder asks for, and up to which tokens."""
    return {"do_sample": False, "num_beams": 1, "stop_token_ids": stop_tokens(loaded, None)}
