"""`./relais bench` and `./relais chaos`, where the laboratory is at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.commands.bench import bench
from lab.commands.chaos import chaos

if TYPE_CHECKING:
    import typer


def add_to(app: typer.Typer) -> None:
    """Add the commands to those of `./relais`."""
    app.command("bench")(bench)
    app.command("chaos")(chaos)
