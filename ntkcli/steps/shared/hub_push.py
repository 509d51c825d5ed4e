"""Put files into a repository of the Hugging Face Hub, in one commit. The token comes from its own place alone.

A repository is made private, unless the user asks for a public one, and nothing goes into one that is public already
without being asked: rows of a domain are often not for everyone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ntkcli.errors import NtkselError, UsageError
from ntkcli.model_files import reason_of

Kind = Literal["model", "dataset"]


def check_push(repo: str | None, *, public: bool) -> None:
    """UsageError, before any work, if nothing could be pushed: a name of another form, no login, no network wanted."""
    if repo is None:
        if public:
            raise UsageError("--public is given without --push-to-hub.", "Give --push-to-hub ORG/NAME.")
        return
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its `__all__` lacks it

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"--push-to-hub {repo}: {reason_of(error)}.", "Give ORG/NAME.") from error
    if repo.count("/") != 1:
        raise UsageError(f"--push-to-hub {repo}: expected ORG/NAME.", "Give your name or an organisation's first.")
    if constants.HF_HUB_OFFLINE:
        raise UsageError("--push-to-hub: HF_HUB_OFFLINE is set.", "Unset it, or leave --push-to-hub out.")
    if not get_token():
        raise UsageError("--push-to-hub: you are not logged in to the Hub.", "Run `hf auth login`, or set HF_TOKEN.")


def push(files: Mapping[str, Path | bytes], repo: str, *, kind: Kind, public: bool, message: str, again: str) -> str:
    """The address of the repository, after one commit with these files (name there → what is in it).

    Raises:
        NtkselError: the Hub did not take it, or the repository is public and `public` was not given. `again` is the
            command that tries once more.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # as above

    disable_progress_bars()
    api = HfApi()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a card's optional fields
            _make(api, repo, kind=kind, public=public, again=again)
            operations = [
                CommitOperationAdd(name, str(content) if isinstance(content, Path) else content)
                for name, content in files.items()
            ]
            api.create_commit(repo, operations, commit_message=message, repo_type=kind)
    except NtkselError:
        raise
    except Exception as error:  # of the library, and of three more below it
        raise NtkselError(
            f"--push-to-hub {repo}: the Hub did not take it: {reason_of(error)}.",
            f"Nothing is lost, what was made is in the store. Run the same command again, which only pushes: {again}",
        ) from error
    return f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"


def _make(api: Any, repo: str, *, kind: Kind, public: bool, again: str) -> None:
    """Make the repository, if there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.repo_info(repo, repo_type=kind)
    except RepositoryNotFoundError:
        api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        return
    if found.private is False and not public:
        raise NtkselError(
            f"--push-to-hub {repo} is public, and --public is not given.",
            f"Give --public or another name; what was made is in the store, and it is only pushed: {again}",
        )
