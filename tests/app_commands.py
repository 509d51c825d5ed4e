"""The commands of `ntksel` by name."""

from __future__ import annotations

import typer

from ntkcli.app import app

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # typer does not say that it is a group
