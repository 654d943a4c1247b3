"""The console that commands print on, and what may reach a terminal."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH_IN_FILES = 160
_WITHOUT_BOUNDS = 100_000
# C0 and C1 controls but newline and tab, marks that reorder or hide text, line separators,
# lone surrogates: what callers put into a name must not move the cursor or turn a line around.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """`text` with every control or invisible character written as an escape."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def console() -> Console:
    """As wide as the terminal; wide enough for whole rows if there is none."""
    from rich.console import Console

    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_WIDTH_IN_FILES if piped else None, highlight=False)


def show(console: Console, table: Table) -> None:
    """Print a table or, if it is too wide, its rows one below the other, without truncating."""
    from rich.measure import Measurement
    from rich.padding import Padding
    from rich.text import Text

    unbounded = console.options.update(width=_WITHOUT_BOUNDS)
    if Measurement.get(console, unbounded, table).maximum <= console.width:
        console.print(table)
        return
    names = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        first, *others = (cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells)
        console.print(Text.assemble((first.plain, "bold")), soft_wrap=True)
        parts = [
            Text.assemble((f"{name}\u00a0", "dim"), value)
            for name, value in zip(names[1:], others, strict=True)
            if value.plain
        ]
        console.print(Padding(Text("  ").join(parts), (0, 0, 0, 2)))
