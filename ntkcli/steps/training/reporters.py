"""Services that a training's steps can be reported to, by the names that transformers has for them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from ntkcli.errors import UsageError

PACKAGES: Final[dict[str, tuple[str, ...]]] = {
    "azure_ml": ("azureml",),
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "dagshub": ("dagshub",),
    "dvclive": ("dvclive",),
    "flyte": ("flytekit",),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""Service → the packages that one of is needed."""


def check_reporters(names: Sequence[str]) -> None:
    """UsageError if there is no such service, or its package is not installed."""
    for name in names:
        if name not in PACKAGES:
            raise UsageError(
                f"--report-to {name}: expected one of {', '.join(PACKAGES)}.", "Give one of these, or leave it out."
            )
        if not any(find_spec(package) for package in PACKAGES[name]):
            package = PACKAGES[name][0]
            raise UsageError(
                f"--report-to {name} needs the package {package}, which is not installed.", f"pip install {package}"
            )
