"""What every machine of a cluster must have before work starts: the program, the shared folder, model and files."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ntkcli import __version__
from ntkcli.errors import NtkselError, SpecError, UsageError, listed
from ntkcli.identity import resolve_model
from store import Store
from store import fingerprint as digest


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a machine: the driver's folder, a token in the store, files with their sizes, models."""

    folder: str
    probe: str
    token: str
    files: tuple[tuple[str, int], ...]
    models: tuple[str, ...]
    trust_remote_code: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What a machine found; `reply` is a file that it wrote next to the token, "" where it can't.

    `models` are their digests; of one that is not there, `model_error` names it.
    """

    host: str
    version: str
    has_folder: bool
    sees_token: bool
    reply: str
    missing: tuple[str, ...]
    models: tuple[str, ...]
    model_error: str
    gpu_bytes: int


def ask(stored: Store, words: Sequence[str], models: Sequence[str]) -> Question:
    """The question for commands: every word that is a file here must be one there, of the same size."""
    token, probe = secrets.token_hex(16), stored.tmp_path()
    probe.write_text(token)
    found = {value: Path(value) for word in words for value in (word, word.partition("=")[2]) if value}
    files = tuple((name, path.stat().st_size) for name, path in found.items() if _is_file(path))
    code = "--trust-remote-code" in words
    return Question(os.getcwd(), str(probe.absolute()), token, files, tuple(dict.fromkeys(models)), code)


def look(question: Question) -> Answer:
    """Run on each machine: what it has of what is asked."""
    has_folder, missing, models, model_error = os.path.isdir(question.folder), [], [], ""
    if has_folder:
        os.chdir(question.folder)
    probe = Path(question.probe)
    try:
        sees = probe.read_text() == question.token
    except OSError:
        sees = False
    reply = probe.with_name(f"{probe.name[:-16]}{secrets.token_hex(8)}")
    try:
        reply.write_text(question.token)
    except OSError:
        reply = Path()
    for name, size in question.files:
        path = Path(name)
        if not _is_file(path) or path.stat().st_size != size:
            missing.append(name)
    for model in question.models if not missing else ():
        try:
            models.append(model_digest(model, trust_remote_code=question.trust_remote_code))
        except Exception as error:  # of any kind that a model can have
            model_error = model_error or f"{model}: {error}"
    return Answer(
        host=socket.gethostname(),
        version=__version__,
        has_folder=has_folder,
        sees_token=sees,
        reply=str(reply) if reply.name else "",
        missing=tuple(missing),
        models=tuple(models),
        model_error=model_error,
        gpu_bytes=_gpu_bytes(),
    )


def model_digest(model: str, *, trust_remote_code: bool) -> str:
    """A digest of everything that says which model it is."""
    return digest(resolve_model(model, trust_remote_code=trust_remote_code).spec)


def refuse_unfit(question: Question, answers: Sequence[Answer], store_path: Path) -> None:
    """NtkselError, before any work, naming each machine that can't take part, and why; the tokens are removed."""
    replies = [answer.reply and Path(answer.reply).is_file() for answer in answers]
    for path in (question.probe, *(answer.reply for answer in answers if answer.reply)):
        Path(path).unlink(missing_ok=True)
    for answer, reply in zip(answers, replies, strict=True):
        if answer.version != __version__:
            raise UsageError(
                f"{answer.host} has ntksel {answer.version}, and this is {__version__}.", "Install the same on both."
            )
        if not answer.has_folder:
            raise UsageError(
                f"{answer.host} has no folder {question.folder}, which this command was started in.",
                "Start it in a folder that all machines share.",
            )
        if not (answer.sees_token and reply):
            raise UsageError(
                f"The folder {store_path} is not shared: {answer.host} does not see what is written here, or the other "
                "way round.",
                "Put the store on a file system that all machines mount at the same path.",
            )
        if answer.missing:
            raise UsageError(
                f"{answer.host} does not have {listed(answer.missing)}, or of another size.",
                "Put them on the shared file system, or at the same path on every machine.",
            )
        if answer.model_error:
            raise UsageError(
                f"{answer.host} does not have the model {answer.model_error}",
                "Put it at the same path on every machine, or into its Hub cache.",
            )
    for number, model in enumerate(question.models):
        own = model_digest(model, trust_remote_code=question.trust_remote_code)
        if other := [answer.host for answer in answers if answer.models[number] != own]:
            raise SpecError(
                f"The model {model} on {listed(other)} is not the one here: their files differ.",
                "Copy it there again.",
            )


def require_answers(found: Sequence[object]) -> None:
    """NtkselError if there is no machine."""
    if not found:
        raise NtkselError("The Ray cluster has no machine that is alive.", "Start one: `ray start --head`.")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for a file
        return False


def _gpu_bytes() -> int:
    """Memory of this machine's smallest GPU; 0 without one."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout  # noqa: S603  # ours
        return min(int(line) for line in said.split()) << 20
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0
