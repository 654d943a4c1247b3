"""Rows with the same keys as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from ops.cli import screen

_PAIR = 2  # names and values: long values wrap


def show(rows: Sequence[Mapping[str, object]], *, empty: str) -> None:
    """Print the rows, headed by their keys, or `empty` if there are none."""
    console = screen.console()
    if not rows:
        console.print(empty, soft_wrap=True)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        values = ("" if value is None else str(value) for value in row.values())
        table.add_row(*(Text(screen.visible(value)) for value in values))
    if len(table.columns) > _PAIR:
        screen.show(console, table)
    else:
        console.print(table)
