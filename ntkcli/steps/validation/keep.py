"""Keep a training run of a validation in the store, as if `ntksel finetune` had made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import store
from ntkcli import __version__
from ntkcli.identity import BASE_RECORD, ModelIdentity
from ntkcli.steps.shared import seal
from ntkcli.steps.training.log import RunLog, arrays
from ntkcli.steps.training.run import alone
from ntkcli.steps.validation.bench import Measured


def keep_run(
    stored: store.Store, name: str, folder: Path, found: Measured, *, spec: Mapping[str, Any], model: ModelIdentity,
    rows: int, held_out: int = 0,
) -> None:  # fmt: skip
    """Write `runs/<name>` with the steps taken and `adapters/<name>` with the adapter in `folder`; sealed last.

    `rows` were trained on in an epoch, `held_out` were not.
    """
    artefact = stored.create(
        f"runs/{store.check_name(name, '--name')}",
        kind=store.Kind.RUN,
        spec=spec,
        parents={},
        n=len(found.steps),
        part_rows=len(found.steps),
        arrays=arrays(held_out=bool(held_out)),
        attrs={
            "train": [], "model": model.reference, "rows": rows, "truncated": 0, "skipped": 0, "held_out": held_out,
            "set_rows": [rows],
        },
    )  # fmt: skip
    log = RunLog(artefact)
    for step in found.steps:
        log.add(step)
    kept = stored.adapter_path(name)
    with alone(kept):
        for file in seal.FILES:
            store.write_bytes(kept / file, (folder / file).read_bytes())
        record = {
            "made_by": f"ntksel {__version__}",
            "model": {"reference": model.reference, **model.spec},
            "run": artefact.fingerprint,
            "spec": artefact.spec,
            "files": seal.digests(kept),
        }
        store.write_bytes(kept / BASE_RECORD, seal.sealing(record))
