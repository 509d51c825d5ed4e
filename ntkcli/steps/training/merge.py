"""Merge the adapter of a run into its base model, as a folder that transformers and vLLM load, and as a GGUF file.

A folder is built beside its place and renamed when all of it is durable; its record names run, model and files, so that
the same command again finds it done.
"""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import store
from ntkcli import __version__
from ntkcli.digests import digest_file
from ntkcli.errors import IncompleteError, NtkselError, UsageError
from ntkcli.identity import (
    CONVERTED_FILES,
    AdapterIdentity,
    ModelIdentity,
    converted_folder,
    is_plain_lora,
    resolve_adapter,
    resolve_model,
)
from ntkcli.model_files import TOKENIZER_FILES
from ntkcli.progress import Progress, Silent
from ntkcli.steps.shared.cost import weight_size
from ntkcli.steps.shared.model_settings import note_conversion
from ntkcli.steps.shared.outputs import (
    Inputs,
    check_output,
    checksum,
    is_ours,
    manifest_of,
    output_path,
    publish_output,
    replace_folder,
)
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import is_finished
from ntkcli.steps.training.merge_card import merge_card
from ntkcli.steps.training.merge_files import add_old_names
from ntkcli.units import human_bytes
from store import atomic

VERSION = 2
"""Of the merging, in the record: goes up when the same run would give other files."""
RECORD = "ntksel-merge.json"
"""In a merged folder: what it was made of, and the digests of its files; written last."""
COPIED = (*TOKENIZER_FILES, *CONVERTED_FILES, "generation_config.json")
"""Files of the base model that stay as they are."""
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The run, the folder and its bytes, the number format, and the GGUF file if one was asked for."""

    run: str
    out: str
    dtype: str
    parameters: int
    bytes: int
    gguf: str | None
    gguf_bytes: int


@dataclass(frozen=True, slots=True)
class MergeEstimate:
    """What a merge takes: bytes of weights in the folder, and memory for the model in its files' format or, for another
    adapter than plain LoRA, in float32.

    `gguf_bytes`: of that file, None where it is not known before a conversion, 0 where none is asked for.
    """

    run: str
    dtype: str
    parameters: int
    disk_bytes: int
    gguf_bytes: int | None
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge, looked up and checked."""

    stored: store.Store
    run: store.Artefact
    identity: ModelIdentity
    adapter: AdapterIdentity
    out: Path
    gguf: Path | None
    dtype: str
    parameters: int

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name.partition("/")[2]

    @property
    def made(self) -> dict[str, Any]:
        """All that can change the files."""
        return {
            "version": VERSION,
            "run": self.run.fingerprint,
            "adapter": self.adapter.spec,
            "model": self.identity.spec,
            "dtype": self.dtype,
        }


def merge(
    store_path: str | Path, *, run: str, out: str | Path, dtype: str = "auto", gguf: str | Path | None = None,
    model: str | None = None, trust_remote_code: bool = False, force: bool = False, progress: Progress | None = None,
) -> MergeResult:  # fmt: skip
    """Write the folder `out` with the base model of `run` and its adapter as one, and the file `gguf`, if given.

    Merged in float32 and rounded once to `dtype` (auto: that of the base model's files). Tokenizer, chat template and
    generation settings are copied. `model`: where the base model is now, if not where the run found it.

    Raises:
        IncompleteError: the run is not finished. SpecError: the model is not the run's.
        UsageError: `out` or `gguf` is there already or an input (`force` replaces a model's folder); the model can't be
            merged or written. NtkselError: the disk has no room.
    """
    progress = progress or Silent()
    found = prepare(
        store_path, run=run, out=out, dtype=dtype, gguf=gguf, model=model, trust_remote_code=trust_remote_code,
        force=force,
    )  # fmt: skip
    places = _done(found)
    done = [place for place, there in places if there]
    for place in done:
        progress.note(f"{place} holds this model already")
    _refuse_without_room(found, [place for place, there in places if not there])
    if found.out not in done:
        note_conversion(found.identity, progress)
        _write_folder(found, progress)
    if found.gguf is not None and found.gguf not in done:
        _write_gguf(found, found.gguf, progress)
    from ntkcli.engine.models.merging import count_weights

    return MergeResult(
        run=found.run.name,
        out=str(out),
        dtype=found.dtype,
        parameters=count_weights(found.out),
        bytes=sum(path.stat().st_size for path in found.out.iterdir()),
        gguf=None if gguf is None else str(gguf),
        gguf_bytes=0 if found.gguf is None else found.gguf.stat().st_size,
    )


def estimate_merge(store_path: str | Path, **given: Any) -> MergeEstimate:
    """What `merge` with these arguments would take. Loads no weights, writes nothing."""
    found = prepare(store_path, **given)
    merged_in = _stored(found.identity) if is_plain_lora(found.adapter) else "float32"
    memory = found.parameters * max(_BYTES[merged_in], _BYTES[found.dtype])
    size = found.parameters * _BYTES[found.dtype]
    return MergeEstimate(found.run.name, found.dtype, found.parameters, size, _gguf_bytes(found), memory)


def _gguf_bytes(found: Merge) -> int | None:
    """Of the GGUF file: exact from the base model's files, None where these are yet to be converted."""
    from ntkcli.engine.models.gguf_files import gguf_size

    if found.gguf is None:
        return 0
    base = converted_folder(found.identity) if found.identity.gguf else found.identity.folder
    if base is None or not (base / "config.json").is_file():
        return None
    return gguf_size(base, name=found.out.name, dtype=found.dtype)


def prepare(
    store_path: str | Path, *, run: str, out: str | Path, dtype: str, gguf: str | Path | None, model: str | None,
    trust_remote_code: bool, force: bool,
) -> Merge:  # fmt: skip
    """Everything looked up and checked as `merge` does it."""
    from ntkcli.engine.models.gguf_files import refuse_unsupported

    stored = open_store(store_path)
    artefact = stored.get(f"runs/{store.check_name(run, '--run')}")
    if not is_finished(stored, artefact):
        raise IncompleteError(f"{artefact.name} is not finished.", "Run its `ntksel finetune` again.")
    identity = resolve_model(model or str(artefact.attrs["model"]), trust_remote_code=trust_remote_code)
    adapter = resolve_adapter(run, adapters=stored.path / "adapters", option="--run")
    target = output_path(out)
    settled = _stored(identity) if dtype == "auto" else dtype
    parameters, _ = weight_size(identity)
    file = None if gguf is None else output_path(gguf)
    found = Merge(stored, artefact, identity, adapter, target, file, settled, parameters)
    inputs = Inputs(models=(identity.reference, str(identity.folder)))
    _check_folder(found, out, inputs, force=force)
    if gguf is not None and file is not None:
        if target == file or target in file.parents:
            raise UsageError(f"--gguf {gguf} is inside of --out {out}.", "Give a file elsewhere.")
        if not identity.gguf:  # which is converted first
            refuse_unsupported(identity.folder, label=identity.label)
        check_output(gguf, option="--gguf", inputs=inputs, stored=stored, force=force)
    return found


def _stored(identity: ModelIdentity) -> str:
    """The number format of the base model's files; of a GGUF file that of its conversion."""
    from ntkcli.engine.models.merging import stored_dtype

    return "float32" if identity.gguf else stored_dtype(identity.folder)


def is_merged(folder: Path, made: Mapping[str, Any]) -> bool:
    """Whether the folder holds this very model, whole: by its record and the digests of its files."""
    try:
        said = json.loads((folder / RECORD).read_bytes())
        return bool(said["made"] == made) and all(
            digest_file(folder / name) == digest for name, digest in said["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _check_folder(found: Merge, out: str | Path, inputs: Inputs, *, force: bool) -> None:
    """UsageError if `out` must not be written: an input, of the store, or there already and not to be replaced."""
    target, own = found.out, Path(os.path.realpath(found.stored.path))
    if target == own or target in own.parents:
        raise UsageError(f"--out {out}: the store {found.stored.path} is in it.", "Give another folder.")
    check_output(target, option="--out", inputs=inputs, stored=found.stored, force=True)
    if not os.path.lexists(target) or is_merged(target, found.made):
        return
    if not target.is_dir():
        raise UsageError(f"--out {out} is a file.", "Give another name for the folder.")
    if any(target.iterdir()) and not (target / "config.json").is_file():
        raise UsageError(f"--out {out}: the folder holds other things than a model.", "Give another name.")
    if any(target.iterdir()) and not force:
        raise UsageError(f"--out {out} exists.", "Give another name, or --force to replace the model in it.")


def _done(found: Merge) -> list[tuple[Path, bool]]:
    """The folder and the file that are asked for, and whether each is this very model already."""
    places = [(found.out, is_merged(found.out, found.made))]
    if (path := found.gguf) is not None:
        said = manifest_of(path)
        places.append((path, path.is_file() and said is not None and said.get("merge") == found.made and is_ours(path)))
    return places


def _refuse_without_room(found: Merge, places: Sequence[Path]) -> None:
    size = found.parameters * _BYTES[found.dtype]
    needed: dict[int, tuple[Path, int]] = {}  # by disk
    for place in (path.parent for path in places):
        disk = place.stat().st_dev
        needed[disk] = (place, needed.get(disk, (place, 0))[1] + size)
    for place, total in needed.values():
        if total > (free := store.free_bytes(place)):
            raise NtkselError(
                f"The merged model needs {human_bytes(total)} and the disk of {place} has {human_bytes(free)} left.",
                "Make room, or give another --out or a smaller --dtype.",
            )


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A path beside the target to build it at; what killed commands left there goes first."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.merging-*"):
        match = re.fullmatch(r"merging-(\d+)-[0-9a-f]{8}", path.name.rpartition(".")[2])
        if match is not None and not _is_alive(int(match[1])):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    work = target.with_name(f".{target.name}.merging-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield work
    finally:
        if work.is_dir():
            shutil.rmtree(work, ignore_errors=True)
        else:
            work.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _write_folder(found: Merge, progress: Progress) -> None:
    from ntkcli.engine.models.gguf_files import refuse_unsupported
    from ntkcli.engine.models.merging import merged_model, model_folder

    base = model_folder(found.identity)
    if found.gguf is not None:
        refuse_unsupported(base, label=found.identity.label)
    with _beside(found.out) as work:
        model = merged_model(found.identity, found.adapter, dtype=found.dtype)
        progress.note(f"writing {found.out}")
        work.mkdir()
        _save(model, work)
        names = [*COPIED, *(path.name for path in base.glob("*.py") if found.identity.trust_remote_code)]
        (work / "generation_config.json").unlink(missing_ok=True)  # transformers' own: the base model's counts
        for name in dict.fromkeys(names):
            if (base / name).is_file():
                shutil.copyfile(base / name, work / name)
        add_old_names(work, base)
        found.identity.watch.require_unchanged()
        (work / "README.md").write_text(_card(found), encoding="utf-8")
        files = {path.name: digest_file(path) for path in sorted(work.iterdir()) if path.name != "README.md"}
        record = {"made_by": f"ntksel {__version__}", "made": found.made, "files": files}
        (work / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        atomic.fsync_tree(work)
        if found.out.is_dir() and not any(found.out.iterdir()):
            found.out.rmdir()
        replace_folder(work, found.out)
        atomic.sync_folder(found.out.parent)


def _save(model: Any, work: Path) -> None:
    """Weights and configuration, without transformers' bars."""
    from transformers import GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.generation_config = GenerationConfig()  # transformers refuses to save some that it loads
    model.save_pretrained(work)


def _card(found: Merge) -> str:
    command = ["ntksel", "merge", str(found.stored.path), "--run", found.name, "--out", str(found.out)]
    digests = {f"base model, {key}": value for key, value in found.identity.spec.items()}
    digests |= {f"adapter, {key}": value for key, value in found.adapter.spec.items()}
    return merge_card(
        found.out.name,
        base_model=found.identity.reference,
        run=found.name,
        train=[str(each) for each in found.run.attrs.get("train", [])],
        made={"number format": found.dtype, "run": found.run.fingerprint, **digests},
        spec=found.run.spec,
        command=[*command, "--dtype", found.dtype],
    )


def _write_gguf(found: Merge, path: Path, progress: Progress) -> None:
    from ntkcli.engine.models.gguf_files import refuse_unsupported, write_gguf

    refuse_unsupported(found.out, label=found.identity.label)
    progress.note(f"writing {path}")
    with _beside(path) as work:
        write_gguf(found.out, work, name=found.out.name, dtype=found.dtype)
        digest = checksum(work)

        def publish(place: Path) -> None:
            with work.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(work, place)
            atomic.sync_folder(place.parent)

        publish_output(path, publish, {"merge": found.made}, sha256=digest)
