"""Convert a GGUF file once, into a folder of transformers' own format in the user's cache.

The folder is published as the store publishes folders: everything durable first, then one rename. Its record, with the
digests of its files, is compared at every load. Knows nothing of stores or commands.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import store
from ntkcli import __version__
from ntkcli.digests import CACHE_FIX, hash_file
from ntkcli.errors import NtkselError, UsageError
from ntkcli.identity import CONVERTED_RECORD, ModelIdentity, converted_folder, converters, is_converted
from ntkcli.model_files import reason_of
from ntkcli.notes import note
from ntkcli.units import human_bytes
from store import atomic

_WORK = ".converting-"
_STALE_SECONDS = 24 * 3600
"""Age of a killed conversion's work folder at which it is removed: a conversion takes minutes."""
_MEMORY_BYTES = 10
"""Per number: twice float32, the file, a tensor being unpacked. Measured: 9.4 for SmolLM2-135M in Q4_1."""
_THIS_RUN: dict[str, Path] = {}
"""Conversions that no cache keeps, by the digest of the file; gone when the process ends."""


def converted(identity: ModelIdentity) -> Path:
    """The folder with a GGUF file's model; made where there is none, or a damaged one.

    Raises:
        UsageError: the file can't be converted. NtkselError: the disk has no room for it.
    """
    final = converted_folder(identity)
    if final is not None and is_converted(final):
        return final
    if final is None or not _is_writable(final.parent):
        return _converted_for_now(identity)
    if final.is_dir():
        note(f"the conversion in {final} is damaged and is made again")
        try:
            atomic.withdraw_dir(final, final.with_name(f"{_WORK}{secrets.token_hex(8)}"))
        except FileNotFoundError:
            pass  # another process is doing the same
        except OSError:  # another user's
            return _converted_for_now(identity)
    _remove_stale(final.parent)
    with _work_folder(final.parent) as work:
        _convert(identity, work)
        store.publish_dir(work, final)
    return final


def require_unchanged(identity: ModelIdentity, folder: Path) -> None:
    """Raise NtkselError if a file that the model was loaded from has changed since its digest was taken."""
    identity.watch.require_unchanged()
    if folder == converted_folder(identity) and not is_converted(folder):
        raise NtkselError(f"{folder} was changed while the model was loaded from it.", "Run the same command again.")


def _converted_for_now(identity: ModelIdentity) -> Path:
    """The conversion where no cache can keep it: in a folder of its own that goes with the process."""
    digest = identity.spec["weights"]
    if digest not in _THIS_RUN:
        note(f"the converted model is not kept: there is no cache folder that can be written. {CACHE_FIX}")
        folder = Path(tempfile.mkdtemp(prefix="ntksel-converted-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _convert(identity, folder)
        _THIS_RUN[digest] = folder
    return _THIS_RUN[digest]


@contextlib.contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    work = parent / f"{_WORK}{secrets.token_hex(8)}"
    work.mkdir()  # as the user's umask has it: a cache may be shared
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _convert(identity: ModelIdentity, work: Path) -> None:
    """Write the model, the tokenizer and the record into the empty folder `work`."""
    try:
        import gguf  # noqa: F401  (transformers needs it and says so less clearly)
    except ImportError as error:
        raise UsageError("A GGUF model needs the package gguf.", "pip install 'ntksel[gguf]'") from error
    _refuse_without_room(identity, work)
    try:
        _save(identity, work)
    except OSError:
        raise  # of the disk: it names the file
    except Exception as error:  # gguf and transformers raise what numpy raised
        raise UsageError(
            f"{identity.label}: it can't be converted: {reason_of(error)}.",
            "Download it again, or give the model's folder of safetensors.",
        ) from error
    identity.watch.require_unchanged()  # else the folder would be of other bytes than its name says
    record = {
        "made_by": f"ntksel {__version__}",
        "source": {"file": identity.gguf, "digest": identity.spec["weights"]},
        "converters": converters(),
        "files": {path.name: hash_file(path) for path in sorted(work.iterdir())},
    }
    store.write_bytes(work / CONVERTED_RECORD, json.dumps(record, indent=2, sort_keys=True).encode() + b"\n")


def _save(identity: ModelIdentity, work: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):  # the converter draws a bar that nothing else turns off
        loaded = AutoModelForCausalLM.from_pretrained(identity.folder, gguf_file=identity.gguf, dtype=torch.float32)
    # save_pretrained refuses a model that was loaded from GGUF, so its weights move into a fresh one.
    del loaded.config.quantization_config
    fresh = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(work)
    AutoTokenizer.from_pretrained(identity.folder, gguf_file=identity.gguf).save_pretrained(work)


def _refuse_without_room(identity: ModelIdentity, work: Path) -> None:
    """Report what the conversion takes; NtkselError if the disk has no room for its result."""
    numbers = _count(identity)
    memory, disk, free = _MEMORY_BYTES * numbers, 4 * numbers, store.free_bytes(work)
    note(f"converting {identity.gguf} takes {human_bytes(memory)} of memory and {human_bytes(disk)} of disk")
    if disk > free:
        raise NtkselError(
            f"{identity.label}: converted it takes {human_bytes(disk)}, and the disk of {work.parent} has "
            f"{human_bytes(free)} left.",
            "Make room, or set NTKSEL_CACHE to a folder on another disk.",
        )


def _count(identity: ModelIdentity) -> int:
    """How many numbers the file's tensors hold."""
    from gguf import GGUFReader

    try:
        reader: Any = GGUFReader(identity.folder / str(identity.gguf))
        return sum(int(tensor.n_elements) for tensor in reader.tensors)
    except Exception as error:  # of numpy, for a file that is cut
        raise UsageError(
            f"{identity.label}: the file is cut or damaged ({reason_of(error)}).", "Download it again."
        ) from error


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _remove_stale(folder: Path) -> None:
    """Remove what killed conversions left behind."""
    for work in folder.glob(f"{_WORK}*"):
        with contextlib.suppress(OSError):
            if time.time() - work.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(work, ignore_errors=True)
