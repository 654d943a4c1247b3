"""`relais demo`: n8n-shaped requests become delivered mail, and every email is accounted for."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.cli.options import AsJson, Colour, DataDir, PortBase


def demo(
    *,
    recipients: Annotated[
        int, typer.Option(min=1, max=100_000, help="Bulk emails to send.")
    ] = 1000,
    as_json: AsJson = False,
    colour: Colour = None,
    data_dir: DataDir = None,
    port_base: PortBase = None,
) -> int:
    """Send n8n-shaped requests through the stack, and account for every email."""
    from ops import demo as play

    return play.run(
        recipients=recipients,
        as_json=as_json,
        data_dir=data_dir,
        colour=colour,
        port_base=port_base,
    )
