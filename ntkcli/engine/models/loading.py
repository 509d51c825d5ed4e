"""Load a causal language model and its tokenizer, frozen; find its decoder and its head.

Knows nothing of stores or commands. No code from a model's folder is run, unless the identity says that it may be.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ntkcli.engine.models.devices import DTYPES, pick_device
from ntkcli.engine.models.heads import HeadForm, read_head
from ntkcli.engine.rope import forget_lengths
from ntkcli.errors import UsageError
from ntkcli.identity import ModelIdentity, converted_folder


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A frozen model in evaluation mode, its tokenizer, and where it lives."""

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype


def load_tokenizer(identity: ModelIdentity) -> Any:
    """The model's own tokenizer (a fast one: the encoder needs character offsets)."""
    from transformers import AutoTokenizer

    folder = _converted(identity) if identity.gguf else identity.folder
    with _remote_code(identity) as trust:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    if not tokenizer.is_fast:
        raise UsageError(
            f"--model {identity.reference}: its tokenizer has no fast version, which gives the character offsets "
            "that the answer mask needs.",
            "Save one next to the model as tokenizer.json.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _fit_tokens(tokenizer, model_config(identity))
    return tokenizer


def _fit_tokens(tokenizer: Any, config: Any) -> None:
    """Keep a tokenizer to its model's embedding table: a padding token beyond it gives way, the encoder knows its size.

    What stands at the padding changes no value, so that any token will do.
    """
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if not isinstance(rows, int) or not any(number >= rows for number in tokenizer.get_vocab().values()):
        return
    tokenizer.embedding_rows = rows
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        has_end = tokenizer.eos_token_id is not None and tokenizer.eos_token_id < rows
        tokenizer.pad_token = tokenizer.eos_token if has_end else tokenizer.convert_ids_to_tokens(0)


def model_config(identity: ModelIdentity) -> Any:
    """The model's configuration, without its weights."""
    from transformers import AutoConfig

    folder = _converted(identity) if identity.gguf else identity.folder
    with _remote_code(identity) as trust:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust)


def load_model(identity: ModelIdentity, *, dtype: str, device: str) -> LoadedModel:
    """The model with every weight frozen, in evaluation mode, on `device` in `dtype` (a key of `DTYPES`).

    A GGUF file is converted once (about 20 s for 135M parameters) and kept in the user's cache. A folder whose weights
    were quantised by bitsandbytes stays quantised.

    Raises:
        UsageError: transformers can't load it; the message carries its reason.
    """
    from transformers import AutoModelForCausalLM

    _silence_bars()
    place = pick_device(device)
    folder = _converted(identity) if identity.gguf else identity.folder
    quantised = _quantisation(folder)
    try:
        with _remote_code(identity) as trust:
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                device_map={"": place} if quantised else None,
                trust_remote_code=trust,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        if quantised and isinstance(error, ImportError):
            raise UsageError(
                f"--model {identity.reference}: its weights are quantised by {quantised}, which is not installed here.",
                "pip install 'ntksel[quantised]'" if quantised == "bitsandbytes" else f"Install {quantised}.",
            ) from error
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise UsageError(f"--model {identity.reference}: transformers can't load it: {reason}") from error
    model.requires_grad_(False)
    model.eval()
    if quantised:
        _keep_differentiable(model)
    else:
        model.to(place)
    forget_lengths(model)
    head_form(model)  # refuses here what could not be right later
    return LoadedModel(model, load_tokenizer(identity), place, DTYPES[dtype])


def _quantisation(folder: Path) -> str:
    """How the folder's weights are quantised, by its configuration (`bitsandbytes`), or ""."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str((config.get("quantization_config") or {}).get("quant_method", ""))


def _keep_differentiable(model: nn.Module) -> None:
    """Turn off what bitsandbytes does for inference on a CPU alone, and its line for every layer and call.

    It would repack 4-bit weights (AVX-512 with bfloat16) for a kernel that has no backward.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # typed as a module


def decoder_of(model: Any) -> nn.Module:
    """The part of the model that ends in the final norm: token ids in, hidden states (B, T, D) out.

    Of a model that also sees or hears, the language model alone.
    """
    decoder = model.get_decoder()
    if not isinstance(decoder, nn.Module) or decoder is model:
        raise UsageError(f"{type(model).__name__} has no decoder apart from its head; it is not supported.")
    return decoder


def head_of(model: Any) -> nn.Linear:
    """The output layer: hidden states to logits. With an adapter on it, the layer that computes with the adapter.

    Of one that was trained whole (`modules_to_save`), its trained weights.
    """
    head = model.get_output_embeddings()
    if hasattr(head, "modules_to_save"):
        head = head.modules_to_save[head.active_adapter] if head.active_adapters else head.original_module
    bare = head
    while not isinstance(bare, nn.Linear) and (below := _below(bare)) is not None:
        bare = below
    if not isinstance(bare, nn.Linear) or not bare.weight.is_floating_point():
        kind = f"{type(bare).__name__} of {bare.weight.dtype}" if isinstance(bare, nn.Linear) else type(bare).__name__
        raise UsageError(f"{type(model).__name__}: its output layer is a {kind}, not a linear layer of floats.")
    return head  # type: ignore[no-any-return]  # peft's layers have what a linear one has


def _below(module: Any) -> Any:
    """The layer that one of peft's stands on, or None."""
    return getattr(module, "base_layer", None) or getattr(module, "original_module", None)


_FORMS: WeakKeyDictionary[nn.Module, HeadForm] = WeakKeyDictionary()


def head_form(model: Any) -> HeadForm:
    """What the model does to its output layer's numbers; looked at once a model (`load_model` does)."""
    if model not in _FORMS:
        _FORMS[model] = read_head(model, decoder_of(model), head_of(model))
    return _FORMS[model]


def head_logits(model: Any, hidden: Tensor) -> Tensor:
    """Logits (..., V) float32 from hidden states (..., D)."""
    form = head_form(model)
    return form.logits(head_of(model)(hidden if form.before == 1.0 else hidden * form.before).float())


@contextlib.contextmanager
def _remote_code(identity: ModelIdentity) -> Iterator[bool]:
    """Whether code of the model's may run, always said outright: left open, transformers would ask on a terminal.

    Raises:
        UsageError: it may not, and can't be loaded without.
    """
    refused = UsageError(
        f"--model {identity.reference}: transformers can't load it without the Python code that it brings.",
        "Read that code, and give --trust-remote-code if you trust it.",
    )
    needs_leave = identity.brings_code and not identity.trust_remote_code
    if needs_leave and not _is_known(identity):
        raise refused
    try:
        yield identity.trust_remote_code
    except (OSError, ValueError, KeyError) as error:
        if needs_leave:
            raise refused from error
        raise


def _is_known(identity: ModelIdentity) -> bool:
    """Whether transformers has the model's architecture itself."""
    from transformers import CONFIG_MAPPING

    config = json.loads((identity.folder / "config.json").read_text(encoding="utf-8"))
    return config.get("model_type") in CONFIG_MAPPING


def _silence_bars() -> None:
    """No bars of transformers' own: ours tells the course of the whole."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _converted(identity: ModelIdentity) -> Path:
    """The folder with a GGUF file's model in transformers' own format, made once and published by a rename."""
    final = converted_folder(identity)
    if final.is_dir():
        return final
    try:
        import gguf  # noqa: F401  (transformers needs it and says so less clearly)
    except ImportError as error:
        raise UsageError("A GGUF model needs the package gguf.", "pip install 'ntksel[gguf]'") from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _silence_bars()
    final.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".converting-", dir=final.parent))
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the converter draws a bar that nothing else turns off
            loaded = AutoModelForCausalLM.from_pretrained(identity.folder, gguf_file=identity.gguf, dtype=torch.float32)
        # save_pretrained refuses a model that was loaded from GGUF, so its weights move into a fresh one.
        del loaded.config.quantization_config
        fresh = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
        fresh.load_state_dict(loaded.state_dict())
        fresh.save_pretrained(work)
        AutoTokenizer.from_pretrained(identity.folder, gguf_file=identity.gguf).save_pretrained(work)
        json.loads((work / "config.json").read_text(encoding="utf-8"))
        try:
            os.rename(work, final)
        except OSError:
            if not final.is_dir():  # not another process that was first, a real failure
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return final
