"""Push the adapter of a finished run to the Hub as a model, with its card."""

from __future__ import annotations

import re
from pathlib import Path

import store
from ntkcli.data.hub import is_hub_id
from ntkcli.identity import BASE_RECORD
from ntkcli.steps.shared import seal
from ntkcli.steps.shared.commands import making
from ntkcli.steps.shared.hub_push import push

CARD = "README.md"


def push_adapter(stored: store.Store, run: store.Artefact, folder: Path, repo: str, *, public: bool) -> str:
    """The address of the model on the Hub. NtkselError if the Hub did not take it."""
    files: dict[str, Path | bytes] = {name: folder / name for name in (*seal.FILES, BASE_RECORD)}
    card = folder / CARD
    if card.is_file():
        files[CARD] = hub_card(card.read_text(encoding="utf-8"), base_model=str(run.attrs["model"])).encode()
    return push(
        files,
        repo,
        kind="model",
        public=public,
        message=f"{run.name}, fingerprint {run.fingerprint}",
        again=making(stored.path, run.name).removesuffix("...`") + f"... --push-to-hub {repo}`",
    )


def hub_card(card: str, *, base_model: str) -> str:
    """The card as the Hub takes it: without `base_model` in its head where that is a path of this machine."""
    if is_hub_id(base_model):
        return card
    head, marker, rest = card.partition("\n---\n")
    return re.sub(r"\nbase_model:.*", "", head, count=1) + marker + rest
