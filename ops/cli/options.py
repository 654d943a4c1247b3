"""Options that several commands share, described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _folder(text: str) -> Path:
    # An unset variable in a script must not fill the folder that the script happens to run in.
    if not text:
        message = "It is empty. Name a folder; this one is '.'."
        raise typer.BadParameter(message)
    return Path(text)


Colour = Annotated[
    str | None,
    typer.Option("--colour", help="blue or green.", show_default="RELAIS_COLOUR, else blue"),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The folder for all data.", parser=_folder, metavar="<path>"),
]
PortBase = Annotated[
    int | None,
    typer.Option("--port-base", help="The first of ten ports.", show_default="8080, green 8090"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
