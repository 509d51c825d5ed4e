"""One of two processes that torchrun starts: trains in the store of its first argument, as `TRAININGS` say.

Several trainings in one start, since starting is what takes the time.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ntkcli import options
from ntkcli.errors import NtkselError
from ntkcli.group import Group

SETTINGS: dict[str, Any] = {"epochs": 1, "batch_size": 5, "lr": 0.01, "checkpoint_steps": 2, "device": "cpu"}
KEEPS: dict[str, Any] = {"keep_optimizer": True, "keep_checkpoints": True, "average_weights": True}
TRAININGS: dict[str, dict[str, Any]] = {
    "rows": {"loss_per": "row", "hold_out": 0.2, "patience": 1, "lr": 0.1, "epochs": 4},
    "resumed": {"pack": True, "max_length": 48, "batch_size": 3},
    "broken": KEEPS,
}
"""Of 21 rows: the last step of an epoch has one, and so one process none. `broken` fails in the second process;
`resumed` was begun by one process, which failed in the same step."""
BREAKS_AT = 3


def train(store: Path, name: str, **more: Any) -> None:
    from ntkcli.steps.training.finetune import finetune

    given = {**SETTINGS, **TRAININGS[name], **more}
    finetune(store, model=str(store.parent / "model"), train=[str(store.parent / "d.jsonl")], name=name, **given)


def break_at(step: int) -> None:
    """Let this process fail in its part of a step."""
    from ntkcli.engine.training.loss import StepLoss

    backward, calls = StepLoss.backward, []

    def failing(self: StepLoss, *args: Any, **how: Any) -> Any:
        calls.append(1)
        if len(calls) > step:
            StepLoss.backward = backward  # type: ignore[method-assign]  # breaks it on purpose
            raise NtkselError("a row of the second process is too long.")
        return backward(self, *args, **how)

    StepLoss.backward = failing  # type: ignore[method-assign]  # breaks it on purpose


def main(store: Path) -> None:
    from ntkcli.steps.shared.together import together

    shown: dict[str, str] = {}
    with together(options.own_shard(), "cpu") as group:
        for name in TRAININGS:
            shown[name] = outcome(store, name, group)
    sys.stdout.write(json.dumps({"process": group.index, "shown": shown}) + "\n")  # at once: two processes write here
    sys.stdout.flush()


def outcome(store: Path, name: str, group: Group) -> str:
    if name == "broken" and not group.first:
        break_at(BREAKS_AT)
    try:
        with group.telling():
            train(store, name, processes=group)
    except NtkselError as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main(Path(sys.argv[1]))
