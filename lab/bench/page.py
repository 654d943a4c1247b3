"""A benchmark's figures for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(measured: dict[str, Any]) -> None:
    """Print `measured` as a table, nested figures indented."""
    table = Table(title=f"bench {measured['name']}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in measured.items():
        if name == "name":
            continue
        if isinstance(value, dict):
            table.add_row(name.replace("_", " "), "")
            for inner, figure in value.items():
                table.add_row(f"  {inner.replace('_', ' ')}", _text(figure))
        else:
            table.add_row(name.replace("_", " "), _text(value))
    Console().print(table)


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)
