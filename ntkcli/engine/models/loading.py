"""Load a causal language model and its tokenizer, frozen; find its decoder and its head.

Knows nothing of stores or commands. No code from a model's folder is run, unless the identity says that it may be.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ntkcli.engine.models.conversion import converted, require_unchanged
from ntkcli.engine.models.devices import DTYPES, pick_device
from ntkcli.engine.models.heads import HeadForm, read_head
from ntkcli.engine.models.lockstep import Lockstep
from ntkcli.engine.models.weights import own_memory, refuse_other_weights
from ntkcli.engine.rope import forget_lengths
from ntkcli.errors import NtkselError, UsageError
from ntkcli.identity import ModelIdentity
from ntkcli.library_settings import without_library_settings
from ntkcli.model_files import reason_of, why_tokenizer_fails
from ntkcli.progress import shown


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A frozen model in evaluation mode, its tokenizer, and where it lives; in `lockstep` with whom it is shared."""

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    lockstep: Lockstep = field(default_factory=Lockstep)


def load_tokenizer(identity: ModelIdentity) -> Any:
    """The model's own tokenizer (a fast one: the encoder needs character offsets).

    Raises:
        UsageError: a file of it is missing or damaged. NtkselError: one changed since its digest was taken.
    """
    from transformers import AutoTokenizer

    folder = _folder(identity)
    with _remote_code(identity) as trust:
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        except Exception as error:  # of transformers, tokenizers, sentencepiece or the model's own code
            if trust or not identity.brings_code:
                model_config(identity)  # which the tokenizer's class is chosen by, and may be the one that is damaged
                raise why_tokenizer_fails(folder, error, label=identity.label) from error
            raise
    require_unchanged(identity, folder)
    if not tokenizer.is_fast:
        raise UsageError(
            f"--model {identity.reference}: its tokenizer has no fast version, which gives the character offsets "
            "that the answer mask needs.",
            "Save one next to the model as tokenizer.json.",
        )
    _check_template(tokenizer, identity)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _fit_tokens(tokenizer, model_config(identity))
    return tokenizer


def _check_template(tokenizer: Any, identity: ModelIdentity) -> None:
    """UsageError if the chat template itself is broken, which every row would be blamed for."""
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        if isinstance(tokenizer.chat_template, str):
            _compile_jinja_template(tokenizer.chat_template)
    except TemplateSyntaxError as error:
        raise UsageError(
            f"{identity.label}: its chat template is cut or damaged: {reason_of(error)} (line {error.lineno}).",
            "Download chat_template.jinja or tokenizer_config.json again.",
        ) from error


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
    """The model's configuration, without its weights. UsageError if transformers can't make sense of it."""
    from transformers import AutoConfig

    with _remote_code(identity) as trust, _as_usage_error(identity):
        return AutoConfig.from_pretrained(_folder(identity), trust_remote_code=trust)


def load_model(
    identity: ModelIdentity, *, dtype: str, device: str, with_head: bool = True, mapped: bool = False
) -> LoadedModel:
    """The model with every weight frozen, in evaluation mode, on `device` in `dtype` (a key of `DTYPES`).

    A GGUF file is converted once (about 20 s for 135M parameters) and kept in the user's cache. A folder whose weights
    were quantised by bitsandbytes stays quantised. Without `with_head` the files may lack the output layer, which is
    then random. `mapped`: on a CPU the weights may stay the files' own pages, for a caller who moves them at once.

    Raises:
        UsageError: transformers can't load it; the message carries its reason. NtkselError: a file changed meanwhile.
    """
    from transformers import AutoModelForCausalLM

    place = pick_device(device)
    folder = _folder(identity)
    quantised = _quantisation(folder)
    with (
        without_library_settings(),
        _quiet_loading(),
        _remote_code(identity) as trust,
        _as_usage_error(identity, quantised),
    ):
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            device_map={"": place} if quantised or place.type == "cuda" else None,  # straight to where it computes
            trust_remote_code=trust,
            ignore_mismatched_sizes=True,  # found out below, with the names
            output_loading_info=True,
        )
    refuse_other_weights(model, found, identity, with_head=with_head)
    model.requires_grad_(False)
    model.eval()
    if quantised:
        _keep_differentiable(model)
    else:
        model.to(place)
        if place.type == "cpu" and not mapped:
            own_memory(model)
    forget_lengths(model)
    _expect_no_mask(model)
    head_form(model)  # refuses here what could not be right later
    require_unchanged(identity, folder)
    return LoadedModel(model, load_tokenizer(identity), place, DTYPES[dtype])


def _expect_no_mask(model: nn.Module) -> None:
    """Leave out the warning of some architectures (GPT-2) where a padded batch comes without a mask.

    `ntkcli.engine.batches.final_hidden` says why it needs none.
    """
    for module in model.modules():
        if hasattr(module, "warn_if_padding_and_no_attention_mask"):
            module.warn_if_padding_and_no_attention_mask = _no_warning  # type: ignore[assignment]  # as above


def _no_warning(*_: Any) -> None:
    pass


def _folder(identity: ModelIdentity) -> Path:
    return converted(identity) if identity.gguf else identity.folder


@contextlib.contextmanager
def _as_usage_error(identity: ModelIdentity, quantised: str = "") -> Iterator[None]:
    """What transformers raises while it loads, as an error of the model: it has no class of its own for these."""
    try:
        yield
    except NtkselError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise NtkselError(
            f"{identity.label}: there is not enough memory to load it.",
            "Give --dtype bfloat16, another --device, or a smaller or quantised model.",
        ) from error
    except Exception as error:
        if quantised and isinstance(error, ImportError):
            raise UsageError(
                f"--model {identity.reference}: its weights are quantised by {quantised}, which is not installed here.",
                "pip install 'ntksel[quantised]'" if quantised == "bitsandbytes" else f"Install {quantised}.",
            ) from error
        raise UsageError(
            f"--model {identity.reference}: transformers can't load it: {reason_of(error)}.",
            "Check its config.json, or give a model that this version of transformers can load.",
        ) from error


def _quantisation(folder: Path) -> str:
    """How the folder's weights are quantised, by its configuration (`bitsandbytes`), or ""."""
    config = json.loads((folder / "config.json").read_bytes())
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
    if not isinstance(decoder, nn.Module) or decoder in (model, model.get_output_embeddings()):
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

    config = json.loads((identity.folder / "config.json").read_bytes())
    return config.get("model_type") in CONFIG_MAPPING


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """No bars and no reports of transformers' own: what is wrong we report ourselves, and how far it is."""
    from transformers import core_model_loading
    from transformers.utils import logging as messages

    messages.disable_progress_bar()
    before, bar = messages.get_verbosity(), core_model_loading.tqdm
    messages.set_verbosity_error()
    core_model_loading.tqdm = _weights_shown
    try:
        yield
    finally:
        core_model_loading.tqdm = bar
        messages.set_verbosity(before)


def _weights_shown(weights: Collection[Any], **_: Any) -> Iterator[Any]:
    """The weights that transformers loads one by one, counted where the command shows it."""
    with shown("loading the model", total=len(weights), unit="weights") as advance:
        for weight in weights:
            yield weight
            advance(1)
