"""The console that commands print on."""

from __future__ import annotations

import os
import sys

from rich.console import Console

_WIDTH_IN_FILES = 160


def console() -> Console:
    """As wide as the terminal; wide enough for whole rows where there is none."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_WIDTH_IN_FILES if piped else None, highlight=False)
