"""Reporting a training's steps to other services, through transformers' own callbacks. Changes no value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntkcli.errors import NtkselError
from ntkcli.model_files import reason_of


@dataclass(frozen=True, slots=True)
class Reporting:
    """To which services (transformers' names), under which name; tensorboard's files go to `folder` by default."""

    services: tuple[str, ...] = ()
    name: str = ""
    folder: Path | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """For TrainingArguments: every step is reported, or nothing."""
        if not self.services:
            return {"report_to": "none", "logging_strategy": "no"}
        return {
            "report_to": list(self.services),
            "logging_strategy": "steps",
            "logging_steps": 1,
            "run_name": self.name,
        }

    def prepare(self, trainer: Any) -> None:
        """Name the service in its errors; tensorboard's files go to `folder`, unless TENSORBOARD_LOGGING_DIR is set."""
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

        kinds = {INTEGRATION_TO_CALLBACK[name]: name for name in self.services}
        for callback in trainer.callback_handler.callbacks:
            name = kinds.get(type(callback))
            if name is None:
                continue
            if name == "tensorboard" and callback.logging_dir is None and self.folder is not None:
                callback.logging_dir = str(self.folder)
            for event in dir(callback):
                if event.startswith("on_"):
                    setattr(callback, event, _named(getattr(callback, event), name))


def _named(event: Callable[..., Any], service: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return event(*args, **kwargs)
        except NtkselError:
            raise
        except Exception as error:  # of any library
            raise NtkselError(
                f"--report-to {service}: {reason_of(error)}.",
                "Fix that or leave --report-to out; the same command continues from the last checkpoint.",
            ) from error

    return call
