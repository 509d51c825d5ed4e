"""What trainers let a message say about its own training: `weight`, `train`, `training`, `loss`.

OpenAI, Mistral, Together and Fireworks: `weight` 0 or 1. axolotl: `train` (or `training`), and `train_detail` for a
part of a message. ms-swift: `loss`, and `loss_scale` for a share.
"""

from __future__ import annotations

from typing import Any, Final

from ntkcli.data.rows import RowError, what_is

_MARKS: Final = ("weight", "train", "training", "loss", "loss_weight", "loss_scale")
_DETAILS: Final = ("train_detail", "training_detail")


def is_learned(item: dict[str, Any], where: str, *, assistant: bool) -> bool:
    """Whether the message is trained on, by its own mark; without one it is.

    RowError for what can't be honoured: a share of a weight, a part of a message, a turn that isn't the assistant's,
    marks that disagree.
    """
    for key in _DETAILS:
        if item.get(key):
            raise RowError(f"{where} has {key!r}: parts of a message can't be trained on; split it, or mark all of it")
    found = {key: _mark(item[key], key, where) for key in _MARKS if item.get(key) is not None}
    if len(set(found.values())) > 1:
        raise RowError(f"{where} has marks that disagree: {' and '.join(map(repr, found))}")
    if not assistant and True in found.values():
        key = next(iter(found))
        raise RowError(f"{where} has {key!r} set: only turns of the assistant are trained on; set it to 0 there")
    return not assistant or False not in found.values()


def _mark(value: Any, key: str, where: str) -> bool:
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise RowError(f"{where} has as {key!r} {what_is(value)}; a turn is trained on (1, true) or not (0, false)")
