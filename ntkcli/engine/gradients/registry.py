"""The probes by name (`featurize --probe`): what one is, and the door for those of other packages.

Must not import torch or numpy when it is imported, so that `--help` lists the names at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ntkcli.doors import Door

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Direction(Protocol):
    """A function that gives v: the direction in logit space along which the model's output is differentiated."""

    def __call__(self, size: int, *, seed: int, number: int) -> NDArray[np.float32]:
        """v (size,) float32 for a vocabulary of `size` logits, a pure function of its arguments.

        `seed` is `--seed`; `number` counts the `--probes` from 0. Its length changes no unit feature.
        """
        ...


@dataclass(frozen=True, slots=True)
class Probe:
    """A direction in logit space.

    `summary` goes into the help. `seeded`: it is random, so that several directions say more than one, and the seed
    is in the spec.
    """

    direction: Direction
    summary: str
    seeded: bool = True


def _sum(size: int, *, seed: int, number: int) -> NDArray[np.float32]:  # noqa: ARG001  # as all probes
    import numpy as np

    return np.ones(size, dtype=np.float32)


def _rademacher(size: int, *, seed: int, number: int) -> NDArray[np.float32]:
    from ntkcli.engine.hashing import signs

    return signs(seed, f"probe|{number}", size)


def _centred(size: int, *, seed: int, number: int) -> NDArray[np.float32]:
    import torch

    v_V = torch.from_numpy(_rademacher(size, seed=seed, number=number))
    centred: NDArray[np.float32] = (v_V - v_V.mean()).numpy()  # numpy's mean rounds in another way
    return centred


PROBES: Final = Door(
    "ntksel.probes",
    Probe,
    thing="probe",
    option="--probe",
    builtin={
        "sum": Probe(_sum, "the one in the paper", seeded=False),
        "rademacher": Probe(_rademacher, "random signs"),
        "centred": Probe(_centred, "random signs minus their mean, which softmax can't see"),
    },
)
